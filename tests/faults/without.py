"""Each protection is taken out of a copy of the code, to see that a test fails without it: ``faults.without``."""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "protections.jsonl"

PATIENCE, MEMORY = 900, 5 << 30
"""Seconds and bytes that tests may take."""

CODE = ("ft_jax", "tests", "benchmarks", "experiments", "pyproject.toml", "docs")


@dataclasses.dataclass(frozen=True)
class Protection:
    """Something that must not be taken out.

    Attributes:
      name: what it is, for the table.
      file: below ``ft_jax``.
      code, without: a piece of the file, and what it becomes where the protection is taken out.
      test: below ``tests``, a name of pytest's; it must fail then.
    """

    name: str
    file: str
    code: str
    without: str
    test: str


SAVED, OUTSIDE = "training/saved_folders.py", "models/checkpoints/safetensors_file.py"
DAMAGE, MODELS, ARCHIVES = "training/test_damage.py", "models/test_outside.py", "assets/test_archives.py"
DATA, NONFINITE, NOTHING = (
    "data/test_damaged_files.py",
    "training/test_nonfinite.py",
    "training/test_nothing_to_learn.py",
)

PROTECTIONS = (
    Protection("digests of a checkpoint's files are checked", SAVED,
               'check_digests(folder, record.pop("files"), RECORD)', 'record.pop("files")',
               f"{DAMAGE}::test_every_flipped_bit_of_a_checkpoint_is_noticed"),
    Protection("a record's own digest is checked", "training/seal.py",
               "if record[SEAL] != _digest(content):", "if False:",
               f"{DAMAGE}::test_a_sealed_record_notices_a_number_that_was_changed"),
    Protection("a damaged checkpoint is left for the one before", "training/checkpoint.py",
               "damaged[step] = str(error)\n                continue", "raise",
               f"{DAMAGE}::test_a_damaged_checkpoint_is_left_out_and_the_one_before_gives_the_same_end"),
    Protection("an older checkpoint is deleted only once a newer one is whole", SAVED,
               "        sealed = seal(", "        [shutil.rmtree(self.folder / str(old)) for old in self.steps()]\n"
               "        sealed = seal(",
               f"{DAMAGE}::test_a_checkpoint_is_deleted_only_once_another_is_whole"),
    Protection("what a killed writer left is put right", SAVED,
               "            self._tidy()", "            pass",
               f"{DAMAGE}::test_what_a_killed_writer_left_is_put_right"),
    Protection("a full disk is seen before it is written to", SAVED,
               "shutil.disk_usage(self.folder).free < needed", "False",
               f"{DAMAGE}::test_a_full_disk_keeps_the_old_checkpoint_and_says_what_is_needed"),
    Protection("a torn line of metrics is dropped", "training/logging.py",
               "damaged = cut_lines(path, start)", "damaged = 0",
               f"{DAMAGE}::test_torn_and_damaged_lines_of_metrics_are_repaired"),
    Protection("a damaged file of a run is taken from its copy", "training/run_folder.py",
               "whole = unseal(read_json(_spare(path)))", "raise ValueError",
               f"{DAMAGE}::test_a_damaged_file_of_the_run_is_mended"),
    Protection("files of a run are for the same people", "assets/cache.py",
               'with open(unfinished, "xb") as file:',
               'with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:',
               f"{DAMAGE}::test_files_of_a_run_are_readable_by_the_same_people"),
    Protection("digests of a kept model are checked", "training/serving/kept.py",
               'check_digests(run / FOLDER, whole["files"], RECORD)', "pass",
               "training/serving/test_kept_damage.py::test_every_flipped_bit_of_a_kept_model_is_noticed"),
    Protection("code beside a tokenizer is not run", "models/checkpoints/tokenizers.py",
               "trust_remote_code=False", "trust_remote_code=True",
               f"{MODELS}::test_code_beside_a_tokenizer_never_runs"),
    Protection("tensors leave no byte between them", OUTSIDE, "if begin > place:", "if False:",
               f"{MODELS}::test_bytes_that_no_tensor_holds_are_refused"),
    Protection("no byte is behind the last tensor", OUTSIDE, "if base + place != size:", "if False:",
               f"{MODELS}::test_bytes_that_no_tensor_holds_are_refused"),
    Protection("a header of another length is refused", OUTSIDE, "_refuse_gaps(path, entries, base, size)\n", "pass\n",
               f"{MODELS}::test_a_header_of_another_length_is_refused"),
    Protection("tensors share no byte", OUTSIDE, "if begin < place:", "if False:",
               "models/test_load.py::test_tensors_that_share_bytes_are_refused"),
    Protection("tensors of a GGUF file share no byte", "models/checkpoints/gguf_file.py",
               "    _refuse_overlaps(path, entries)", "    pass",
               f"{MODELS}::test_lists_in_lists_and_shared_bytes_in_gguf_are_refused"),
    Protection("types and ranges of config.json", "models/checkpoints/published.py",
               "return checked(Config, content, str(path))", "return dict(content)",
               f"{MODELS}::test_a_field_of_config_json_is_refused_by_name_and_value"),
    Protection("types and ranges of GGUF metadata", "models/checkpoints/published.py",
               'checked(GGUF, {name.removeprefix(f"{kind}."): value for name, value in metadata.items()}, str(path))',
               "pass", f"{MODELS}::test_a_field_of_a_gguf_file_is_refused_by_name_and_value"),
    Protection("types and ranges of adapter_config.json", "models/peft/formats.py",
               "known = checked(Adapter, config, str(path))", "known = dict(config)",
               f"{MODELS}::test_a_field_of_an_adapter_is_refused_by_name_and_value"),
    Protection("JSON names no field twice", "outside/strict_json.py",
               "if len(fields) < len(pairs):", "if False:",
               f"{MODELS}::test_json_that_is_no_configuration_is_one_sentence"),
    Protection("a sparse member of a tar is not unpacked", "assets/archives.py",
               "if entry.isreg() and not entry.issparse()", "if entry.isreg()",
               f"{ARCHIVES}::test_what_would_fill_the_disk_is_refused_before_it_is_written"),
    Protection("what an archive unpacks to is bounded", "assets/archives.py",
               "if self.most is not None and size > self.most:", "if False:",
               f"{ARCHIVES}::test_what_would_fill_the_disk_is_refused_before_it_is_written"),
    Protection("no member is written outside", "assets/archives.py",
               "            if escapes(name):", "            if False:",
               "assets/test_packages.py::test_an_archive_whose_members_would_escape_is_refused"),
    Protection("links and devices are not unpacked", "assets/archives.py",
               "            if name in self.links:", "            if False:",
               "assets/test_packages.py::test_links_in_archives_are_never_unpacked"),
    Protection("members' names are what they seem", "assets/archives.py",
               "wrong = trouble_with(name) or", "wrong =",
               f"{ARCHIVES}::test_names_that_deceive_or_cannot_be_are_refused"),
    Protection("a download is no larger than its index says", "assets/download.py",
               "if received > most:", "if False:",
               f"{ARCHIVES}::test_a_download_has_no_more_bytes_than_its_index_says_or_is_allowed"),
    Protection("a download has the digest of its index", "assets/download.py",
               "if expected and found != expected:", "if False:",
               "assets/test_packages.py::test_a_download_that_differs_from_its_index_is_refused_and_removed"),
    Protection("names that people give are what they seem", "outside/names.py",
               '    wrong = trouble_with(name)\n    if wrong:\n        raise ValueError(f"{what}',
               '    wrong = None\n    if wrong:\n        raise ValueError(f"{what}',
               "outside/test_names.py::test_a_name_that_deceives_is_refused"),
    Protection("what comes from outside is printed escaped", "outside/names.py",
               'return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)', "return text",
               "outside/test_sentences.py::test_what_other_libraries_say_is_shown_in_printable_characters"),
    Protection("words of a run are no markup in its report", "training/report/report.py",
               "autoescape=True", "autoescape=False",
               "training/test_report.py::test_words_of_the_run_cannot_become_markup"),
    Protection("a column named twice is refused", "data/tables.py",
               "if repeated is not None:", "if False:",
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("invalid UTF-8 is refused", "data/tables.py",
               'return open(path, encoding="utf-8-sig", newline="")',
               'return open(path, encoding="utf-8-sig", newline="", errors="replace")',
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("arrays of an npz are as large as they say", "data/tables.py",
               "if math.prod(shape) * kind.itemsize != len(left):", "if False:",
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("Python objects in an npz are not unpickled", "data/tables.py",
               "    if kind.hasobject:", "    if False:",
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("what a parquet file unpacks to is bounded", "data/tables.py",
               "        if claimed > most:", "        if False:",
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("pages of a parquet file have their checksums", "data/tables.py",
               "page_checksum_verification=True", "page_checksum_verification=False",
               f"{DATA}::test_every_flipped_bit_or_cut_is_noticed_where_the_format_has_checksums"),
    Protection("what a gzip file unpacks to is bounded", "data/tables.py",
               "        if self._left < 0:", "        if False:",
               f"{DATA}::test_what_is_damaged_or_hostile_is_one_sentence_that_names_the_file"),
    Protection("a step that is not finite ends a run", "training/loop/nonfinite.py",
               "if not np.isfinite(np.asarray(jax.device_get(value), np.float64)).any():", "if False:",
               f"{NONFINITE}::test_a_run_stops_with_the_batch_that_broke_it"),
    Protection("a step that is not finite is skipped where that is asked for", "training/loop/nonfinite.py",
               'if way != "skip" or GUARD in composition.names:', "if True:",
               f"{NONFINITE}::test_a_step_that_is_skipped_is_counted_and_changes_nothing"),
    Protection("a run goes back only so often", "training/loop/returning.py",
               " and self._times[good] < MOST_RETURNS", " and self._times[good] < 9",
               f"{NONFINITE}::test_a_run_goes_back_to_the_same_checkpoint_three_times_at_most"),
    Protection("a task in which nothing carries loss is refused", "training/limits.py",
               "if not any(carries(batch) for batch in more):", "if False:",
               f"{NOTHING}::test_a_task_in_which_nothing_carries_loss_is_refused_before_training"),
    Protection("an evaluation set in which nothing counts is refused", "training/tracing.py",
               "if not any(carries(batch) for batch in batches):", "if False:",
               f"{NOTHING}::test_an_evaluation_set_in_which_nothing_counts_is_refused"),
    Protection("steps without loss are told", "training/loop/nonfinite.py",
               "        self._note_empty(step, metrics, batch)", "        pass",
               f"{NOTHING}::test_steps_without_loss_are_told_and_the_run_goes_on"),
    Protection("a run in which nothing learns is refused", "training/prepare.py",
               "    if not jax.tree.leaves(plan.abstract.params):", "    if False:",
               "training/test_heads_learn.py"),
    Protection("float16 where the device has none is refused", "models/networks/parts/attention.py",
               'if queries.dtype == jnp.float16 and platform != "gpu":', "if False:",
               "training/test_half_precision_devices.py"),
)  # fmt: skip


def pieces(protection: Protection, root: Path = ROOT) -> int:
    """How often the code of a protection stands in its file; it must be once."""
    return (root / "ft_jax" / protection.file).read_text(encoding="utf-8").count(protection.code)


def copied(folder: Path) -> Path:
    """A copy of the code to take things out of."""
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".jax_cache"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def tested(root: Path, tests: list[str]) -> tuple[int, str]:
    """pytest's status and last line over tests of a copy, in bounded time and memory: what is out may be a bound."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{one}" for one in tests)],
            cwd=root, env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"},
            capture_output=True, text=True, check=False, timeout=PATIENCE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"hangs for {PATIENCE} seconds"
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (told or done.stdout.splitlines() or [done.stderr[-300:]])[-1]


def taken_out(protection: Protection, root: Path) -> tuple[bool, str]:
    """Whether the protection's test fails without it, and what pytest said; the copy is as before afterwards."""
    path = root / "ft_jax" / protection.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(protection.code, protection.without), encoding="utf-8")
    try:
        status, told = tested(root, [protection.test])
    finally:
        path.write_text(whole, encoding="utf-8")
    return status == 1, told


def recorded() -> dict[str, bool]:
    """Of each protection that was taken out whether its test failed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return {told["protection"]: told["failed"] for told in map(json.loads, lines)}


def table() -> str:
    """Protections, their tests, and whether each failed without its protection, in Markdown."""
    known = recorded()
    rows = [("protection", "test", "fails without it"), ("---",) * 3]
    for one in PROTECTIONS:
        file, _, name = one.test.partition("::")
        told = {True: "yes", False: "**no**", None: "not tried"}[known.get(one.name)]
        rows.append((one.name, f"[{name or file}](../tests/{file})", told))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def tried(only: Sequence[str] = ()) -> int:
    """Takes out one protection after another; a line of docs/results for each, and the status 1 if a test holds.

    Args:
      only: protections whose name holds one of these words; all without any.
    """
    chosen = [one for one in PROTECTIONS if not only or any(word in one.name for word in only)]
    found = recorded() if only else {}
    with tempfile.TemporaryDirectory(prefix="without-") as name:
        root = copied(Path(name))
        status, told = tested(root, sorted({one.test for one in chosen}))
        if status:
            raise SystemExit(f"a test fails with every protection in its place: {told}")
        for one in chosen:
            found[one.name], told = taken_out(one, root)
            print(json.dumps({"protection": one.name, "failed": found[one.name], "told": told[:300]}), flush=True)
            known = [one.name for one in PROTECTIONS if one.name in found]
            lines = [json.dumps({"protection": name, "failed": found[name]}) for name in known]
            RESULTS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return 0 if all(found.values()) else 1


def main() -> int:
    """Tries what is asked for, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=(), help="protections whose name holds one of these words")
    parser.add_argument("--table", action="store_true", help="print the table and take nothing out")
    options = parser.parse_args()
    if options.table:
        print(table())
        return 0
    return tried(options.only)


if __name__ == "__main__":
    sys.exit(main())
