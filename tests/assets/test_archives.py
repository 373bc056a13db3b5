"""Archives that would fill the disk, hide a name or end early are refused before anything of them is kept."""

import gzip
import io
import random
import tarfile
import time
import zipfile
import zlib

import pytest
from assets.package_index import tar_bytes, wheel_name, zip_bytes

from ft_jax import assets
from ft_jax.assets.archives import allowed, open_archive, unpack
from ft_jax.assets.cache import locked


def deflated(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def header(name, size, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry.tobuf(tarfile.GNU_FORMAT)


def sparse_tar(size):
    """A tar of one GNU sparse member that claims `size` bytes and holds none."""
    entry = bytearray(header("d/sparse", 0, tarfile.GNUTYPE_SPARSE))
    entry[386:398], entry[398:410] = b"%011o\0" % size, b"%011o\0" % 0
    entry[483:495] = b"%011o\0" % size
    entry[148:156] = b" " * 8
    entry[148:156] = b"%06o\0 " % sum(entry)
    return bytes(entry) + b"\0" * 1024


def zeros(size):
    """A gzipped stream of so many zero bytes, made without holding them."""
    packer, block = zlib.compressobj(9, wbits=31), b"\0" * (1 << 20)
    return b"".join([packer.compress(block) for _ in range(size >> 20)]) + packer.flush()


BOMBS = {
    "a zip of zeros": lambda: deflated({"d/a": b"\0" * (120 << 20)}),
    "a tar of zeros": lambda: gzip.compress(header("d/a", 1 << 33)) + zeros(64 << 20),
    "zeros before it": lambda: gzip.compress(header("z", 1 << 33)) + zeros(64 << 20),
    "a sparse member": lambda: sparse_tar(1 << 20),
    "a large sparse member": lambda: sparse_tar(1 << 32),
    "a long name": lambda: gzip.compress(header("n", 1 << 32, tarfile.GNUTYPE_LONGNAME)) + zeros(64 << 20),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_fill_the_disk_is_refused_before_it_is_written(tmp_path, bomb):
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[bomb]())
    start = time.perf_counter()
    with (
        pytest.raises(assets.AssetRefused, match=r"unpacks to \d+ bytes|sparse|claims \d+ bytes"),
        open_archive(path, "bomb", allowed(path.stat().st_size)) as archive,
    ):
        unpack(archive, "d", tmp_path / "out")
    assert not (tmp_path / "out").exists() and time.perf_counter() - start < 2


def test_a_bomb_within_an_archive_shares_its_bound(tmp_path):
    inner = deflated({"a": b"\0" * (120 << 20)})
    path = tmp_path / "outer.zip"
    path.write_bytes(zip_bytes({"in.zip": inner}))
    with (
        pytest.raises(assets.AssetRefused, match="no more than"),
        open_archive(path, "outer", allowed(path.stat().st_size)) as archive,
    ):
        unpack(archive, "in.zip!/a", tmp_path / "out")


def test_a_user_who_trusts_an_archive_can_have_it_unpacked(index, monkeypatch):
    index.add("large", wheel_name("large"), deflated({"d/a": b"\0" * (120 << 20)}))
    with pytest.raises(assets.AssetRefused, match="set FT_JAX_UNPACK_MOST to that number of bytes"):
        assets.resolve("pkg://large==1.0/d/a")
    monkeypatch.setenv("FT_JAX_UNPACK_MOST", str(120 << 20))
    assert assets.resolve("pkg://large==1.0/d/a").stat().st_size == 120 << 20
    monkeypatch.setenv("FT_JAX_UNPACK_MOST", "much")
    with pytest.raises(ValueError, match="set it to a number of bytes"):
        allowed(1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("d/a\nb", "control character"),
        ("d/\x1b[2Ja", "control character"),
        ("d/txt.\u202eexe", "direction mark"),
        ("d/" + "n" * 300, "of 302 bytes|of 300 bytes"),
        ("d//a", "no plain path"),
        ("d/./a", "no plain path"),
    ],
)
def test_names_that_deceive_or_cannot_be_are_refused(index, cache, name, said):
    index.add("odd", wheel_name("odd"), zip_bytes({name: b"x", "d/fine": b"fine"}))
    with pytest.raises(assets.AssetRefused, match=said) as error:
        assets.resolve("pkg://odd==1.0/d")
    assert "\n" not in str(error.value) and "\u202e" not in str(error.value)
    assert not list(cache.rglob("fine"))


def test_a_file_that_is_a_folder_too_is_refused(index):
    index.add("odd", wheel_name("odd"), zip_bytes({"d/a": b"x", "d/a/b": b"y"}))
    with pytest.raises(assets.AssetRefused, match="a file and a folder at once"):
        assets.resolve("pkg://odd==1.0/d")


def test_a_tar_that_ends_early_is_damaged_and_not_short(tmp_path):
    whole = gzip.decompress(tar_bytes({"d/a": b"a" * 700, "d/b": b"b" * 700}))
    damaged = bytearray(whole)
    damaged[1536 + 100] ^= 1
    for content in (damaged, whole[:1536], whole[:1600]):
        (tmp_path / "a.tar").write_bytes(content)
        with (
            pytest.raises(assets.AssetRefused, match="not a readable zip or tar archive"),
            open_archive(tmp_path / "a.tar", "a", None),
        ):
            pass


@pytest.mark.parametrize("make", [deflated, tar_bytes])
def test_a_damaged_archive_gives_the_same_bytes_or_one_sentence(tmp_path, make):
    files = {"d/a": bytes(random.Random(0).randbytes(3000)) + b"\0" * 3000, "d/b": b"text " * 50}
    content, draw = make(files), random.Random(1)
    for _ in range(60):
        harmed = bytearray(content)
        harmed[draw.randrange(len(harmed))] ^= 1 << draw.randrange(8)
        (tmp_path / "harmed").write_bytes(harmed)
        try:
            with open_archive(tmp_path / "harmed", "harmed", 1 << 20) as archive:
                names = unpack(archive, "d", tmp_path / "out")
        except (assets.AssetRefused, assets.AssetUnavailable) as error:
            assert "\n" not in str(error)
        else:
            if make is deflated:  # gzip's checksum is looked at only where its end is read
                assert [(tmp_path / "out" / n).read_bytes() for n in names] == [files[n] for n in names]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".unpacking-x" / "files").mkdir(parents=True)
    (tmp_path / ".writing-y").write_text("half")
    (tmp_path / "files").mkdir()
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "files"]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_download_has_no_more_bytes_than_its_index_says_or_is_allowed(index, cache, monkeypatch, as_json):
    index.json = as_json
    index.add("tiny", wheel_name("tiny"), zip_bytes({"d/a": b"a" * 5000}), size=1000 if as_json else None)
    if not as_json:
        monkeypatch.setenv("FT_JAX_DOWNLOAD_MOST", "1000")
    with pytest.raises(assets.AssetRefused, match="more than the 1000 bytes that"):
        assets.resolve("pkg://tiny==1.0/d/a")
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_damaged_record_of_the_cache_is_one_sentence(index, cache):
    index.add("tiny", wheel_name("tiny"), zip_bytes({"d/a": b"a"}))
    assets.resolve("pkg://tiny==1.0/d/a")
    for harm in (b'{"members": [1]}', b"{", b"\xff", b"[]"):
        next(cache.rglob("record.json")).write_bytes(harm)
        with pytest.raises(assets.AssetRefused, match=r"record\.json is damaged .* delete its folder") as error:
            assets.resolve("pkg://tiny==1.0/d/a")
        assert "\n" not in str(error.value)
