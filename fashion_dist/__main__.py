"""`python -m fashion_dist NAME`, which is also what the command `fashion-dist NAME` runs."""

from fashion_dist.commands import main

if __name__ == "__main__":
    main()
