"""Hostile input of every kind: recipes, values of --set, suites, datasets, settings, and arguments of commands.

Each must end in one sentence and a non-zero exit status. A new case is one line of one table.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BOMB = Path(__file__).with_name("bomb.parquet")  # a dictionary repeats one cell of 100 MB of zeros in 64 rows
MINI = (Path(__file__).parents[2] / "flows" / "recipes" / "mini.yaml").read_text()
_SUITE = "name: s\nseeds: [1]\nprompts: [{slug: a, text: t, content: c, tags: [x]}]\n"

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)

# the whole text of a recipe file, or of a suite
DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing\n",
    "null": b"null\n",
    "list": b"[1, 2]\n",
    "number": b"12\n",
    "text": b"hello\n",
    "zeros": bytes(1000),
    "utf16": MINI.encode("utf-16"),
    "latin": "profile: caf\u00e9\n".encode("latin-1"),
    "surrogate": b"profile: \xed\xa0\x80\n",
    "control": b"profile: a\x07b\n",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "tabs": b"\tprofile: mini\n",
    "open quote": b'profile: "mini\n',
    "open bracket": b"profile: [mini\n",
    "stray brace": b"profile: }\n",
    "two documents": b"profile: mini\n---\nprofile: t4\n",
    "self alias": b"profile: &a [*a]\n",
    "unknown alias": b"profile: *b\n",
    "laughs": LAUGHS.encode(),
    "deep lists": b"profile: " + b"[" * 400,
    "deep mappings": b"profile: " + b"{a: " * 400,
    "deep dashes": b"- " * 400,
    "large": b"x: " + b"y" * 1_100_000,
    "many keys": b"".join(b"k%d: 1\n" % n for n in range(6_000)),
    "repeated key": b"profile: a\nprofile: b\n",
    "list as key": b"[a]: b\n",
    "mapping as key": b"{a: b}: c\n",
    "python tag": b"profile: !!python/object/apply:os.getcwd []\n",
    "binary tag": b"profile: !!binary '!'\n",
    "set tag": b"profile: !!set {a, b}\n",
    "date": b"profile: 2024-13-45\n",
    "digits": b"profile: " + b"9" * 9000 + b"\n",
    "bad int": b"profile: !!int x\n",
    "merge of text": b"<<: x\n",
    "undefined directive": b"%YAML 9.9\n---\nprofile: mini\n",
}

# one change of the mini recipe: KEY=VALUE of --set
OVERRIDES: tuple[str, ...] = (
    "training.rank=0", "training.rank=-1", "training.rank=513", "training.rank=1.5", "training.rank=",
    "training.rank=\u0663x", "training.rank=1e3", "training.rank=0x10", "training.rank=[8]", "training.rank=true",
    f"training.rank={'9' * 30}", f"training.rank={'9' * 9000}",
    "training.max_train_steps=1e30", "training.max_train_steps=0", "training.max_train_steps=10000001",
    "training.seed=-1", f"training.seed={2**31}", f"training.seed={2**64}",
    "training.learning_rate=inf", "training.learning_rate=-inf", "training.learning_rate=nan",
    "training.learning_rate=1e999", "training.learning_rate=1e30", "training.learning_rate=0",
    "training.learning_rate=0,5", "training.text_encoder_lr=1e30", "training.adam_weight_decay=1e30",
    "training.adam_betas=[1, 1]", "training.adam_betas=[-1, 0.9]", "training.adam_betas=[0.9]",
    "training.adam_betas=0.9", "training.adam_betas=[.nan, 0.9]",
    "training.max_grad_norm=inf", f"training.lora_alpha={2**53}", "training.resolution=17", "training.resolution=1e9",
    "training.train_batch_size=1000000000", "training.instance_prompt=", "training.lora_layers=[x]",
    "training.lora_layers=[]", "training.prior={kind: a, kind: b}", "training.prior=!!python/name:os.system x",
    f"training.prior={'[' * 400}", "training.prior=&a [*a]", "training.stages=[{resolution: 64, steps: 1}]",
    "training.rnk=8", "rank=8", "training=8", "training.rank.x=8", "training..rank=8", "=8", ".=8", "x", "",
    "styles.0.name=x", "styles=[{}]", "imported={kind: lora}", "profile=../x", "profile=A B", "profile=",
    "model.base=", "model.prediction_type=x", "dataset.hold_out=-1", "dataset.hold_out=1:30",
    f"dataset.hold_out={2**60}", "dataset.max_quarantined=2", "dataset.source=",
    "generation.variants=base", "generation.variants=[]", "generation.variants=[base", "generation.scheduler=x",
    "generation.batch_size=0", "generation.num_inference_steps=1000000", "generation.guidance_scale=nan",
    "generation.suite=../../x", "generation.suite=nowhere.yaml", "generation.max_token_length=76",
    "scoring.resamples=1000000000", "scoring.resamples=99", f"scoring.seed={2**64}", "scoring.seed=-1",
    "scoring.primary=[nonsense]", "scoring.batch_size=1000000000", "scoring.reference=x",
    "fusion.lora_scale=nan", "fusion.style_scales={x: 1}", "fusion.check_pictures=-1",
    "publish.private=maybe", "publish.push_to_hub=true",
)  # fmt: skip

# what a suite has in place of its lines
SUITES: dict[str, str] = {
    "seed of 2^64": _SUITE.replace("[1]", f"[{2**64}]"),
    "negative seed": _SUITE.replace("[1]", "[-1]"),
    "seed that is infinite": _SUITE.replace("[1]", "[.inf]"),
    "seed twice": _SUITE.replace("[1]", "[1, 1]"),
    "no seeds": _SUITE.replace("[1]", "[]"),
    "seeds that are a number": _SUITE.replace("[1]", "1"),
    "no prompts": "name: s\nseeds: [1]\nprompts: []\n",
    "slug with a path": _SUITE.replace("slug: a", "slug: ../a"),
    "slug with capitals": _SUITE.replace("slug: a", "slug: A"),
    "empty text": _SUITE.replace("text: t", "text: ''"),
    "long text": _SUITE.replace("text: t", f"text: {'t' * 3000}"),
    "number as text": _SUITE.replace("text: t", "text: 12"),
    "no tags": _SUITE.replace("tags: [x]", "tags: []"),
    "unknown key": _SUITE + "more: 1\n",
    "slug twice": _SUITE.replace("}]\n", "}, {slug: a, text: u, content: d, tags: [x]}]\n"),
}

# environment variables of `naruto runs`
SETTINGS: tuple[tuple[str, str], ...] = (
    ("NARUTO_HOME", "~nobody-of-that-name/x"),
    ("NARUTO_HOME", "/dev/null/x"),
    ("NARUTO_HOME", f"/{'x' * 300}"),
    ("NARUTO_MEMORY_GIB", "much"),
    ("NARUTO_MEMORY_GIB", "-1"),
    ("NARUTO_MEMORY_GIB", "nan"),
    ("NARUTO_CHECKPOINT_SECONDS", "0"),
    ("NARUTO_CANARY_PICTURES", "1e9"),
    ("NARUTO_CANARY_PICTURES", "-1"),
    ("NARUTO_DATABASE", "naruto.db"),
    ("NARUTO_DATABASE", "sqlite://"),
    ("NARUTO_DATABASE", "sqlite:///:memory:"),
    ("NARUTO_DATABASE", "sqlite:///file::memory:?uri=true"),
    ("NARUTO_DATABASE", "sqlite:///file:x?mode=memory&uri=true"),
    ("NARUTO_DATABASE", "sqlite:////dev/null"),
    ("NARUTO_DATABASE", "sqlite:////proc/naruto.db"),
    ("NARUTO_DATABASE", "sqlite:////"),
    ("NARUTO_DATABASE", "oracle9000://me:secret@host/x"),
    ("NARUTO_DATABASE", "postgresql+psycopg://me:secret@127.0.0.1:1/x"),
    ("NARUTO_DATABASE", "postgresql+psycopg://me:secret@127.0.0.1:port/x"),
    ("NARUTO_DATABASE", "x" * 5000),
)

# arguments of other commands, with an empty home
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", ""), ("show", "../../etc/passwd"), ("show", "%"), ("show", "\x1b[2J"), ("show", "x" * 10_000),
    ("scores", "nothing"), ("scores", "nothing", "-o", "x.exe"), ("rescore", "nothing"), ("rescore", "'; DROP TABLE"),
    ("compare", "a", "b"), ("compare", "a:base", "a:real"), ("compare", "/nowhere//a", "/nowhere//b"),
    ("compare", "//", "//"), ("report", "nothing"), ("captions", "nothing"), ("captions", "\u202ex"),
    ("plan", "--gpu", "abacus"), ("plan", "--recipe", "../../etc/passwd"), ("plan", "--recipe", "nowhere.yaml"),
    ("plan", "--recipe", "/dev/zero.yaml"), ("plan", "--dataset", ""), ("plan", "--recipe", "x" * 5000 + ".yaml"),
    ("tag", "nothing", "+x"), ("note", "nothing", "x"), ("stop", "nothing"), ("delete", "nothing", "--yes"),
    ("gc", "--keep", "everything"), ("gc", "--keep", "last=-1"), ("gc", "--keep", "last=" + "9" * 5000),
    ("promote", "nothing", "--by", "x", "--why", "y"), ("restore", "/nowhere"), ("backup", "/dev/null"),
    ("watch", "--days", "nan"), ("watch", "--days", "0"), ("watch", "--pid", "1"), ("watch", "--days", "inf"),
    ("backup", "b", "--every", "nan"),
    ("export", "kohya", "nothing", "x"), ("run", "--set", "caf\udce9"), ("ingest", "./\udcff"), ("nonsense",),
    ("run", "--recipe", "nowhere.yaml"), ("run", "--set", "training.rank=0"), ("ingest", "x", "--set", "a=b"),
    ("import", "lora", "x" * 5000), ("import", "pictures", "x" * 5000), ("ingest", "x" * 5000),
    ("verify", "x" * 5000), ("export", "kohya", "x" * 5000, "x" * 5000), ("restore", "x" * 5000),
)  # fmt: skip


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    """The bytes of a small picture."""
    memory = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(memory, "PNG")
    return memory.getvalue()


def _folder(files: dict[str, bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(folder)

    return make


def _file(name: str, data: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(data)
        return str(folder / name)

    return make


def _lines(*entries: object) -> bytes:
    return "\n".join(json.dumps(entry) for entry in entries).encode()


def _parquet(table: pa.Table, **options: object) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        pq.write_table(table, folder / "data.parquet", **options)
        return str(folder / "data.parquet")

    return make


def lying_footer(folder: Path) -> str:
    """The bomb, with a footer that states 55 bytes where 100 MB are unpacked."""
    data = BOMB.read_bytes()
    with pq.ParquetFile(BOMB) as file:
        size = file.metadata.row_group(0).column(0).total_uncompressed_size
    number = 2 * size  # zigzag, then 7 bits a byte
    stated = bytes(number >> shift & 127 | 128 for shift in range(0, 21, 7)) + bytes([number >> 21])
    assert data.count(stated) == 1
    (folder / "data.parquet").write_bytes(data.replace(stated, bytes([110 | 128, 128, 128, 0])))
    return str(folder / "data.parquet")


def _compressed_arrow(folder: Path) -> str:
    """A saved set of 4 MB of zeros; a larger one would unpack to as much as it likes."""
    table = pa.table({"image": [bytes(4 << 20)], "text": ["a"]})
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(folder / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as to:
        to.write_table(table)
    return str(folder)


def _link_out(folder: Path) -> str:
    secret = folder.parent / f"{folder.name}-secret.png"
    secret.write_bytes(png())
    (folder / "a.png").symlink_to(secret)
    return str(folder)


def _circle(folder: Path) -> str:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return str(folder / "a")


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "a.png")
    return str(folder)


def _zip(files: dict[str, bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return str(folder / "set.zip")

    return make


# sources of datasets: each function fills a folder and returns the source
DATASETS: dict[str, Callable[[Path], str]] = {
    "empty folder": str,
    "nowhere": lambda folder: f"{folder}/nowhere",
    "device": lambda _: "/dev/zero",
    "system folder": lambda _: "/proc/self/fd",
    "hub without revision": lambda _: "org/name",
    "address": lambda _: "https://example.org/set.zip",
    "world without style": lambda _: "world:",
    "world of too many": lambda _: "world:naruto?count=1000000001",
    "world of digits": lambda _: f"world:naruto?count={'9' * 9000}",
    "world of words": lambda _: "world:naruto?count=x",
    "long name": lambda _: "x" * 5000,
    "name with a zero byte": lambda _: "a\0b",
    "link in a circle": _circle,
    "link out of the folder": _link_out,
    "named pipe": _pipe,
    "text as picture": _folder({"a.png": b"hello"}),
    "cut picture": _folder({"a.png": png()[:60]}),
    "picture of no size": _folder({"a.gif": b"GIF89a" + bytes(7)}),
    "picture too narrow": _folder({"a.png": png((2000, 2))}),
    "caption in another encoding": _folder({"a.png": png(), "a.txt": b"\xff\xfe\xff"}),
    "empty caption": _folder({"a.png": png(), "a.txt": b""}),
    "control characters": _folder({"\x1b]0;x\x07.png": b"hello"}),
    "metadata names a file outside": _folder({"metadata.jsonl": _lines({"file_name": "../../x.png", "text": "t"})}),
    "metadata names a file outside, Windows": _folder(
        {"metadata.jsonl": _lines({"file_name": "..\\..\\x.png", "text": "t"})}
    ),
    "metadata names an address": _folder({"metadata.jsonl": _lines({"file_name": "http://x/y.png", "text": "t"})}),
    "metadata of addresses": _folder({"metadata.csv": b"url,text\nhttp://x/y.png,t\n"}),
    "metadata without captions": _folder({"metadata.jsonl": _lines({"file_name": "a.png"}), "a.png": png()}),
    "metadata that is not JSON": _folder({"metadata.jsonl": b"hello\n", "a.png": png()}),
    "metadata array that is cut": _folder({"metadata.jsonl": b'[{"file_name": "a.png",', "a.png": png()}),
    "metadata that is deep": _folder({"metadata.jsonl": b"[" * 5000, "a.png": png()}),
    "metadata with repeats": _folder(
        {"metadata.jsonl": _lines({"file_name": "a.png", "text": "t", "repeats": 10**9}), "a.png": png()}
    ),
    "metadata with an open quote": _folder({"metadata.csv": b'file_name,text\na.png,"t\n', "a.png": png()}),
    "metadata without a mark": _folder({"metadata.csv": "file_name,text\na.png,t\n".encode("utf-16-le")}),
    "parquet that is text": _file("a.parquet", b"hello"),
    "parquet that is cut": _file("a.parquet", b"PAR1" + bytes(100) + b"PAR1"),
    "parquet without pictures": _parquet(pa.table({"image": ["x"], "text": ["t"]})),
    "parquet without captions": _parquet(pa.table({"image": [png()]})),
    "parquet bomb": lambda _: str(BOMB),
    "parquet bomb whose footer lies": lying_footer,
    "compressed saved set": _compressed_arrow,
    "zip that is text": _file("a.zip", b"hello"),
    "zip that leads out": _zip({"../../a.png": png()}),
    "tar that is text": _file("a.tar", b"hello"),
    "compressed tar": _file("a.tar.gz", b"\x1f\x8b"),
    "list alone": _file("a.csv", b"file_name,text\n"),
    "saved set that points outside": _folder({"state.json": b'{"_data_files": [{"filename": "../x.arrow"}]}'}),
    "saved set without files": _folder({"state.json": b"{}"}),
    "saved set of splits": _folder({"dataset_dict.json": b"{}"}),
}
