"""Draw the frozen inputs: `python tests/golden/draw_inputs.py FOLDER` makes one zip a data set.

They were made once and are committed; other versions of Pillow would write other bytes. Nothing of the product is used.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import sys
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

Files = dict[str, bytes]
FORMS = ("ellipse", "rectangle", "triangle", "cross")
ATTRIBUTES = ("wide", "dark", "striped")


def picture(seed: int, form: int, size: tuple[int, int], striped: bool = False, dark: bool = False) -> Image.Image:
    """One form on a ground, of 3 x size and reduced, so that its edges are soft."""
    rng = random.Random(seed)
    width, height = 3 * size[0], 3 * size[1]
    ground = tuple(rng.randint(150, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 70 if dark else 200) for _ in range(3))
    image = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(image)
    left, top = rng.randint(0, width // 4), rng.randint(0, height // 4)
    right, bottom = width - rng.randint(1, width // 4), height - rng.randint(1, height // 4)
    box = (left, top, right, bottom)
    kind = FORMS[form % len(FORMS)]
    if kind == "ellipse":
        draw.ellipse(box, fill=ink)
    elif kind == "rectangle":
        draw.rectangle(box, fill=ink)
    elif kind == "triangle":
        draw.polygon([(left, bottom), ((left + right) // 2, top), (right, bottom)], fill=ink)
    else:
        draw.rectangle((left, (top + bottom) // 2 - 9, right, (top + bottom) // 2 + 9), fill=ink)
        draw.rectangle(((left + right) // 2 - 9, top, (left + right) // 2 + 9, bottom), fill=ink)
    if striped:
        for x in range(left, right, 12):
            draw.line((x, top, x, bottom), fill=ground, width=3)
    return image.resize(size, Image.Resampling.BOX)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_fashion() -> Files:
    """Photos in several sizes, one of them lying on its side by its EXIF."""
    files: Files = {"categories.txt": ("\n".join(FORMS) + "\n").encode()}
    for at, (split, count) in enumerate((("train", 48), ("val", 12), ("test", 12))):
        lines = [",".join(("file_path", "category_label", *ATTRIBUTES)) if split != "test" else "file_path"]
        for n in range(count):
            wide, dark, striped = n % 2, n // 2 % 2, n // 3 % 2
            size = (44, 36 + n % 5) if wide else (34 + n % 3, 46)
            image = picture(1000 * at + n, n % 4, size, bool(striped), bool(dark))
            exif = image.getexif()
            if n == 7:
                exif[274] = 6
            files[f"{split}/{n}.jpg"] = encoded(image, quality=85, exif=exif)
            told = "" if split == "test" else f",{n % 4},{wide},{dark},{striped}"
            lines.append(f"{split}/{n}.jpg{told}")
        files[f"{split}.csv"] = ("\n".join(lines) + "\n").encode()
    return files


def clipart() -> Files:
    """Drawings in classes named by numbers; PNG in several modes, one GIF and one JPEG among them."""
    files: Files = {}
    for split, count in (("train", 4), ("valid", 1)):
        for label in range(12):
            for n in range(count):
                image = picture(5000 + 100 * label + n + 50 * (split == "valid"), label, (40, 30 + label), label > 6)
                name, kind = f"{split}/{label}/{n:03d}", "PNG"
                if (label, n) == (3, 1):
                    image = image.convert("RGBA")
                    image.putalpha(200)
                elif (label, n) == (4, 1):
                    image = image.convert("L")
                elif (label, n) in ((5, 1), (5, 2)):
                    kind = "GIF" if n == 1 else "JPEG"
                    image = image.quantize(16) if n == 1 else image
                elif n % 2:
                    image = image.quantize(16)
                files[f"{name}.{kind.lower().replace('jpeg', 'jpg')}"] = encoded(image, kind)
    for n in range(12):
        files[f"test/{n + 1:04d}.png"] = encoded(picture(9000 + n, n, (36, 36), n > 6).quantize(16), "PNG")
    return files


def polyvore_outfits() -> Files:
    """Outfits of three items; 16 in training, so that there are 48 items and 48 pairs."""
    kinds = (("3", "all-body"), ("41", "shoes"), ("55", "hats"))
    files: Files = {"categories.csv": b"3,dress,all-body\n41,shoes,shoes\n55,hat,hats\n"}
    items = {}
    for split, first, count in (("train", 0, 16), ("valid", 16, 5), ("test", 21, 5)):
        outfits, lines, questions = [], [], []
        for outfit in range(first, first + count):
            ids = [str(1000 + 3 * outfit + kind) for kind in range(3)]
            for item, (category, semantic) in zip(ids, kinds, strict=True):
                items[item] = {"category_id": category, "semantic_category": semantic}
                form = 0 if semantic == "hats" else outfit
                files[f"images/{item}.jpg"] = encoded(picture(int(item), form, (40, 40), outfit % 3 == 0), quality=85)
            outfits.append(
                {"set_id": str(outfit), "items": [{"item_id": i, "index": n + 1} for n, i in enumerate(ids)]}
            )
            others = [first + (outfit - first + step) % count for step in (1, 2, 3)]
            lines.append(f"1 {outfit}_1 {outfit}_2 {outfit}_3")
            lines.append(f"0 {outfit}_1 {others[0]}_2 {others[1]}_3")
            answers = [f"{outfit}_3", *(f"{other}_3" for other in others)]
            turned = answers[outfit % 4 :] + answers[: outfit % 4]
            questions.append({"question": [f"{outfit}_1", f"{outfit}_2"], "blank_position": 3, "answers": turned})
        files[f"disjoint/{split}.json"] = json.dumps(outfits).encode()
        files[f"disjoint/compatibility_{split}.txt"] = ("\n".join(lines) + "\n").encode()
        files[f"disjoint/fill_in_blank_{split}.json"] = json.dumps(questions).encode()
    files["polyvore_item_metadata.json"] = json.dumps(items).encode()
    return files


def fashion_mnist() -> Files:
    """Gray forms; of the 60 training images 12 are held out where a fifth is asked for."""
    files: Files = {}
    for stem, count, seed in (("train", 60, 20000), ("t10k", 20, 30000)):
        pixels = b"".join(picture(seed + n, n % 10, (28, 28), n % 10 > 3).convert("L").tobytes() for n in range(count))
        images = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(n % 10 for n in range(count))
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(images, mtime=0)
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(labels, mtime=0)
    return files


if __name__ == "__main__":
    for draw in (deep_fashion, clipart, polyvore_outfits, fashion_mnist):
        with zipfile.ZipFile(Path(sys.argv[1]) / f"{draw.__name__}.zip", "w") as archive:
            for name, content in draw().items():
                archive.writestr(zipfile.ZipInfo(name), content)
