"""`fashion-dist clean`, without installing anything."""

from fashion_dist.commands import run

if __name__ == "__main__":
    run("clean")
