"""The coverage of rows: what counts as a citation, and what the check refuses."""

import pytest

from tests.rows import absent, prove, read, report

LIST = """\
scope = ["R90-R92", "T99"]
[one]
R90 = "a name"
R91 = "a title"
[two]
R92 = "nothing"
T99 = "a header"
["not applicable"]
R92 = "n/a because nobody has it"
"""


def rows_of(tmp_path, text=LIST):
    path = tmp_path / "rows.toml"
    path.write_text(text)
    return read(path)


def proven(tmp_path, name, text):
    rows = rows_of(tmp_path)
    (tmp_path / name).write_text(text)
    prove(rows, [tmp_path])
    return set(rows.proofs)


@pytest.mark.parametrize(
    "text",
    [
        "def test_r90_in_the_name(): ...",
        'def test_it():\n    """R90: docstring."""',
        'import pytest\n@pytest.mark.parametrize("x", ["R90"])\ndef test_it(x): ...',
        'import pytest\nTABLE = {"R90: it": 1}\n@pytest.mark.parametrize("x", TABLE.items())\ndef test_it(x): ...',
        '@case("it", "R90: title")\ndef it(ground): ...',
    ],
)
def test_a_test_cites_a_row_in_its_name_docstring_parameters_or_title(tmp_path, text):
    assert proven(tmp_path, "some.py", text) == {"R90"}


@pytest.mark.parametrize(
    "text",
    [
        '"""R90: the module."""',
        "def test_it():\n    # R90\n    assert True",
        'def helper():\n    """R90."""',
        "# R90: a comment\ndef test_it(): ...",
    ],
)
def test_a_comment_a_module_or_a_helper_proves_nothing(tmp_path, text):
    assert proven(tmp_path, "some.py", text) == set()


def test_a_scenario_cites_in_its_header_alone(tmp_path):
    text = "<!-- T99 -->\n<scenario><send>R90</send></scenario>"
    assert proven(tmp_path, "some.xml", text) == {"T99"}


def test_a_manifest_cites_in_its_values_and_not_in_its_comments(tmp_path):
    assert proven(tmp_path, "some.toml", '# R91\n[[scenario]]\nrows = ["R90"]\n') == {"R90"}


def test_the_report_names_what_is_missing_and_counts_what_does_not_apply(tmp_path):
    rows = rows_of(tmp_path)
    rows.proofs["R90"] = ["test"]
    said = list(report(rows, verbose=False))
    assert said == [
        "one           1 of 2 rows proven, 1 MISSING",
        "  R91 a title: cited by no test",
        "two           0 of 2 rows proven, 1 not applicable, 1 MISSING",
        "  T99 a header: cited by no test",
    ]


def test_a_row_of_the_programme_in_scope_must_be_listed(tmp_path):
    rows = rows_of(tmp_path, LIST.replace('R91 = "a title"\n', ""))
    programme = "| R90 | x |\n| R91 | y |\n| R93 ★ | z |\n| T99 ★ | z |\n"
    assert absent(rows, programme) == ["R91"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("R92 =", "R93 ="), "not in the scope"),
        (("n/a because nobody", "nobody"), "n/a because"),
        (("T99 = ", "R90 = "), "two groups"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        rows_of(tmp_path, LIST.replace(*change))
