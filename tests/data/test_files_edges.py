"""What people bring in files is read as it was meant, or refused in a sentence with file, row and column."""

import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ft_jax import data
from ft_jax.data import description


def written(folder, name, content):
    """A file of that content; records become lines of JSON."""
    path = folder / name
    if not isinstance(content, str):
        content = "".join(json.dumps(record) + "\n" for record in content)
    if name.lower().endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\ngood,pos\nbad,\nfine,neu\n", r"a\.csv line 3 has no label in column 'labels'"),
        ("a.csv", "text,label\ngood,pos\nbad,nan\n", "line 3 has no label"),
        ("a.csv", "text,label\ngood,1\nbad,\nfine,0\n", "line 3 has no label"),
        ("a.tsv", "text\tlabel\ngood\tpos\nbad\t \n", "line 3 has the empty label ' '"),
        ("a.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": None}], "line 2 has no label"),
        (
            "a.jsonl",
            [{"text": "x", "label": 2**53 + 1}, {"text": "y", "label": 1}],
            "line 1 has the label 9007199254740",
        ),
        ("a.csv", "text,label\ngood,1\nbad,-3000000000\n", "line 3 has the label -3000000000, .* more than 32 bits"),
        ("a.jsonl", [{"text": "x", "label": "a"}, {"text": "y"}], "line 2 has no label"),
        ("a.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": ""}], "line 2 has the empty label ''"),
        ("a.jsonl", [{"text": "x", "label": "1"}, {"text": "y", "label": 2}], "a name at .*line 1 and a number at .*2"),
        ("a.jsonl", [{"text": "x", "label": ["a"]}, {"text": "y", "label": [""]}], "line 2 has '' among"),
        ("a.jsonl", [{"text": "x", "label": [1, 0]}, {"text": "y", "label": [1]}], "0 or 1 for every class"),
        ("a.jsonl", [{"text": "x", "label": "pos"}, {"text": "y", "label": "pos "}], "differ in spaces alone"),
        ("a.jsonl", [{"text": "x", "label": 1, "labels": 2}], "columns 'label' and 'labels'"),
        ("a.jsonl", [{"text": "x"}, {"text": None}], "line 2, column 'text' has no value"),
        ("a.jsonl", [{"text": "x"}, {"text": 7}], "line 2, column 'text' holds 7, which is no text"),
        ("a.csv", "text,label\nx,0\n,1\n", "line 3, column 'text' has no value"),
        ("a.tsv", "prompt\tcompletion\n\tx\ny\t\n", "line 3, column 'completion' has no value"),
        ("a.csv", "prompt,chosen,rejected\np,a,b\np,,b\n", "line 3, column 'chosen' has no value"),
        ("a.csv", "text,text\na,b\n", "two columns called 'text'"),
        ("a.json", '{"a": 1}', "no list of objects"),
        ("a.json", "[{]", "is not JSON"),
    ],
)
def test_a_row_that_can_t_mean_one_thing_is_refused_by_its_place(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=said) as caught:
        data.load(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_a_null_label_of_parquet_is_refused_by_its_row(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"], "label": [1, None]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet row 2 has no label"):
        data.load(tmp_path / "a.parquet")


def test_names_that_are_missing_don_t_become_a_class():
    with pytest.raises(ValueError, match="example 1 has the label None"):
        data.Dataset({"labels": ["yes", None]}).encode_labels()


def test_a_tsv_has_no_quotes_unless_asked(tmp_path):
    path = written(tmp_path, "a.tsv", 'text\tlabel\n"so it begins\tpos\nb\tneg\nc "\tpos\nd\tneg\ne\tpos\n')
    assert data.load(path).columns["text"] == ['"so it begins', "b", 'c "', "d", "e"]
    with pytest.raises(ValueError, match="opens a quote that swallows 2 more rows"):
        data.load(path, quotes=True)
    quoted = written(tmp_path, "b.tsv", 'text\tlabel\n"two\nlines"\tpos\nb\tneg\n')
    assert data.load(quoted, quotes=True).columns["text"] == ["two\nlines", "b"]


@pytest.mark.parametrize(
    "lines",
    [
        ['"it begins,pos', "b,neg", 'c ",pos', "d,neg"],
        ['"it begins,0.25', "b,1.5", 'c ",3', "d,2"],
        ['"it begins,pos', 'he said "b",neg', "d,neg"],
        ['"it begins,pos', "b,neg"],
    ],
)
def test_a_quote_of_a_csv_that_swallows_rows_is_refused(tmp_path, lines):
    path = written(tmp_path, "a.csv", "\n".join(["text,label", *lines, ""]))
    with pytest.raises(ValueError, match="line 2 (opens a quote that swallows|has a quote that does not close)"):
        data.load(path)
    assert len(data.load(path, quotes=False)) == len(lines)


def test_texts_of_several_lines_stay_whole_in_a_csv(tmp_path):
    texts = ["Dear all,\nthanks", "one, two\nthree, four\n", 'said "no"\nleft', "\n", "plain"]
    rows = "".join('"' + text.replace('"', '""') + f'",{place % 2}\n' for place, text in enumerate(texts))
    assert data.load(written(tmp_path, "a.csv", "text,label\n" + rows)).columns["text"] == texts


@pytest.mark.parametrize("name", ["A.CSV", "a.csv.gz", "A.CSV.GZ"])
def test_endings_count_in_any_case_and_packed(tmp_path, name):
    found = data.load(written(tmp_path, name, "\ufefftext,label\ngut,1\nschön,0\n"))
    assert found.columns["text"] == ["gut", "schön"] and found.columns["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a", "label": 1}, {"text": "b", "label": 0}]',
        '{"data": [{"text": "a", "label": 1}, {"text": "b", "label": 0}], "version": "1"}',
        '{"text": ["a", "b"], "label": [1, 0]}',
    ],
)
def test_json_of_records_or_columns_is_read(tmp_path, content):
    found = data.load(written(tmp_path, "a.json", content))
    assert found.columns["text"] == ["a", "b"] and found.columns["labels"].tolist() == [1, 0]


def test_a_file_of_another_encoding_is_refused_in_words(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nschön\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv is not UTF-8 at byte 8; save it as UTF-8"):
        data.load(tmp_path / "a.csv")


def test_optional_fields_of_jsonl_are_none_where_they_lack(tmp_path):
    found = data.load(written(tmp_path, "a.jsonl", [{"text": "a", "score": 1}, {"text": "b", "topic": "x"}]))
    assert found.columns["score"] == [1, None] and found.columns["topic"] == [None, "x"]


def test_types_of_columns_are_those_of_all_rows(tmp_path):
    rows = [{"text": "a", "w": [1, 1, 0], "n": 1}, {"text": "b", "w": [0.5, 0.25, 0], "n": 2.5}]
    found = data.load(written(tmp_path, "a.jsonl", rows))
    assert found.columns["w"].dtype == np.float64 and found.columns["n"].tolist() == [1.0, 2.5]
    found = data.load(written(tmp_path, "a.csv", "text,code,n\n1,007,1\n2,12,\n"))
    assert found.columns["text"] == ["1", "2"] and found.columns["code"] == ["007", "12"]
    assert found.columns["n"] == [1, None]


@pytest.mark.parametrize(
    ("labels", "values", "classes"),
    [
        (["b", "a", "b"], [1, 0, 1], ("a", "b")),
        ([True, False, True], [1, 0, 1], ("false", "true")),
        ([2, 0, 1], [2, 0, 1], ()),
        ([0.5, 1, -2], [0.5, 1.0, -2.0], ()),
        ([["b"], [], ["a", "b"]], [[0, 1], [0, 0], [1, 1]], ("a", "b")),
        ([[1, 0], [0, 0], [1, 1]], [[1, 0], [0, 0], [1, 1]], ()),
    ],
)
def test_labels_become_what_their_kind_says(tmp_path, labels, values, classes):
    found = data.load(written(tmp_path, "a.jsonl", [{"text": "x", "label": label} for label in labels]))
    assert found.columns["labels"].tolist() == values and found.classes == classes
    several = isinstance(labels[0], list)
    assert found.columns["labels"].dtype == (np.float32 if several else found.columns["labels"].dtype)


def test_one_name_has_one_id_in_all_sets():
    three = data.Dataset({"labels": np.array([2, 0, 1])}, ("neg", "neu", "pos"))
    two = data.Dataset({"labels": np.array([1, 0])}, ("neu", "pos"))
    other = data.Dataset({"labels": np.array([0])}, ("mixed",))
    made = data.one_mapping({"three": three, "two": two, "other": other})
    names = {name: [one.classes[i] for i in one.columns["labels"]] for name, one in made.items()}
    assert names == {"three": ["pos", "neg", "neu"], "two": ["pos", "neu"], "other": ["mixed"]}
    assert len({one.classes for one in made.values()}) == 1
    ordered = data.one_mapping({"two": two}, classes=("pos", "neu", "neg"))["two"]
    assert ordered.columns["labels"].tolist() == [0, 1]
    several = data.Dataset({"labels": np.array([[1, 0]], np.float32)}, ("neu", "pos"))
    others = data.Dataset({"labels": np.array([[1]], np.float32)}, ("neg",))
    assert data.one_mapping({"a": others, "b": several})["b"].columns["labels"].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("other", "options", "said"),
    [
        (data.Dataset({"labels": np.array([0])}), {}, "of a are named no, yes and those of b are numbers"),
        (data.Dataset({"labels": np.array([0])}, ("maybe",)), {"outputs": 2}, "a has no, yes and b has maybe"),
        (data.Dataset({"labels": np.array([0])}, ("yes",)), {"classes": ("ja", "no")}, "a has the classes no, yes"),
        (data.Dataset({"labels": np.ones((1, 1), np.float32)}, ("no",)), {}, "of b has several classes and one of a a"),
    ],
)
def test_labels_that_have_no_one_numbering_are_refused_by_both_sets(other, options, said):
    first = data.Dataset({"labels": np.array([0, 1])}, ("no", "yes"))
    with pytest.raises(ValueError, match=said):
        data.one_mapping({"a": first, "b": other}, **options)


def test_samples_have_each_class_s_share_whatever_the_order():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    counts = np.bincount(data.sample(data.Dataset({"labels": labels}), 150, seed=1).columns["labels"])
    assert counts.tolist() == [90, 45, 15]
    plain = data.Dataset({"x": np.arange(100)})
    one, again, other = (data.sample(plain, 10, seed).columns["x"].tolist() for seed in (1, 1, 2))
    assert one == again != other and max(one) > 50
    with pytest.raises(ValueError, match="101 examples can't be drawn from 100"):
        data.sample(plain, 101)


def test_batches_have_the_types_and_roles_of_the_whole_set():
    columns = {
        "input_ids": [np.array([5, 6, 7]), np.array([8, 9]), np.array([4])],
        "weights": [[1, 1, 0], [0.5, 0.25], [1]],
        "box": [[1, 2, 3], [4, 5, 6], [7, 8, 9.5]],
        "tags": [np.ones((3, 2)), np.ones((2, 2)), np.ones((1, 2))],
    }
    found = list(data.evaluation_batches(data.Dataset(columns), 1, length=4))
    assert [batch["weights"].tolist() for batch in found] == [[[1, 1, 0, 0]], [[0.5, 0.25, 0, 0]], [[1, 0, 0, 0]]]
    assert {batch["weights"].dtype for batch in found} == {np.dtype(np.float32)}
    assert {(batch["box"].shape, batch["box"].dtype.name) for batch in found} == {((1, 3), "float32")}
    assert [batch["tags"].sum() for batch in found] == [6, 4, 2] and found[0]["tags"].shape == (1, 4, 2)


def test_a_field_that_some_examples_lack_is_marked_in_every_batch():
    columns = {"images": [None, np.ones((2, 2)), np.ones((2, 2))], "labels": np.array([0, 1, 0])}
    found = list(data.evaluation_batches(data.Dataset(columns), 1))
    assert [batch["present"]["images"].tolist() for batch in found] == [[0.0], [1.0], [1.0]]
    assert [batch["images"].sum() for batch in found] == [0, 4, 4]


def test_a_text_that_some_examples_lack_is_a_row_of_padding():
    columns = {"input_ids": [None, [5, 6]], "images": [np.ones(3), None]}
    batch = data.collate([{name: column[i] for name, column in columns.items()} for i in range(2)], length=2, padding=9)
    assert batch["input_ids"].tolist() == [[9, 9], [5, 6]] and batch["attention_mask"].tolist() == [[0, 0], [1, 1]]
    assert {name: one.tolist() for name, one in batch["present"].items()} == {"input_ids": [0, 1], "images": [1, 0]}


def test_numbers_beyond_32_bits_are_refused_and_not_wrapped():
    with pytest.raises(ValueError, match="field 'id' holds 5000000000"):
        data.evaluation_batches(data.Dataset({"id": np.array([1, 5_000_000_000])}), 1)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_lines_end_only_where_files_end_them(tmp_path, name):
    text = "one\u2028two\x0bthree\x1c"
    separator = "," if name == "a.csv" else "\t"
    for end in ("\n", "\r\n"):
        path = written(tmp_path, name, end.join([f"text{separator}label", f"{text}{separator}1", ""]))
        assert data.load(path).columns["text"] == [text]


def test_whole_numbers_below_zero_are_no_classes(tmp_path):
    below = data.load(str(written(tmp_path, "a.csv", "text,label\ngood,-1\nbad,1\n")))
    assert description.understood(below)["labels"].role == "numbers" and description.class_counts(below) == {}
    codes = data.load(str(written(tmp_path, "b.csv", "text,label\ngood,90210\nbad,10115\n")))
    assert description.class_counts(codes) == {"10115": 1, "90210": 1}
