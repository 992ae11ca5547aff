from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from annex_remote.errors import Busy, Damaged, NotFound, Unavailable
from annex_remote.transfer.sites import Answer, Asking, Notes, Site, ask_all, explain
from tests.fakes import WAIT, FakeClock, MemoryStore, wait_for


def hangs(end: threading.Event) -> Callable[[], str]:
    def question() -> str:
        end.wait(2 * WAIT)
        return "too late"

    return question


def fails(error: Exception) -> Callable[[], str]:
    def question() -> str:
        raise error

    return question


def test_answers_and_errors_come_as_they_are() -> None:
    errors = [NotFound("not here"), Damaged("broken"), ValueError("a mistake"), OSError(5, "disk")]
    questions: dict[str, Callable[[], str]] = {f"bad{index}": fails(error) for index, error in enumerate(errors)}
    questions |= {f"good{index}": lambda index=index: f"answer {index}" for index in range(20)}  # type: ignore[misc]
    answers = {answer.asked: answer for answer in ask_all(questions, WAIT)}
    assert answers.keys() == questions.keys()
    for index, error in enumerate(errors):
        assert answers[f"bad{index}"] == Answer(f"bad{index}", None, error)
    for index in range(20):
        assert answers[f"good{index}"] == Answer(f"good{index}", f"answer {index}", None)


def test_nobody_is_asked() -> None:
    assert list(ask_all({}, 0.0)) == []


def test_who_hangs_is_unavailable(end: threading.Event) -> None:
    questions = {"a": hangs(end), "b": lambda: "here", "c": hangs(end)}
    answers = list(ask_all(questions, 0.05))
    assert answers[0] == Answer("b", "here", None)
    assert [answer.asked for answer in answers[1:]] == ["a", "c"]
    for answer in answers[1:]:
        assert isinstance(answer.error, Unavailable)
        assert str(answer.error) == "no answer in 0.05 seconds"


def test_all_are_asked_at_once() -> None:
    """Each waits for all the others: one after the other they would never answer."""
    together = threading.Barrier(40)

    def question() -> int:
        return together.wait(WAIT)

    answers = list(ask_all(dict.fromkeys(range(40), question), WAIT))
    assert sorted(answer.value for answer in answers if answer.value is not None) == list(range(40))


def test_the_time_is_the_clocks(end: threading.Event) -> None:
    clock = FakeClock()

    def slow() -> str:
        clock.advance(31.0)
        return "here"

    answers = list(ask_all({"slow": slow, "hangs": hangs(end)}, 30.0, clock))
    assert answers[0].value == "here"
    assert isinstance(answers[1].error, Unavailable)


def test_answers_come_before_all_have_answered(end: threading.Event) -> None:
    last = threading.Event()

    def question() -> str:
        wait_for(last)
        return "last"

    answers = ask_all({"last": question, "first": lambda: "first"}, WAIT)
    assert next(answers).value == "first"
    last.set()
    assert next(answers).value == "last"
    assert list(answers) == []


def test_asking_is_patient_only_as_long_as_it_is_told(end: threading.Event) -> None:
    later = threading.Event()

    def question() -> str:
        wait_for(later)
        return "later"

    asking = Asking({"hangs": hangs(end), "later": question})
    assert list(asking.open) == ["hangs", "later"]
    assert asking.take(0.0) is None
    assert asking.take(-5.0) is None
    assert asking.take(0.02) is None
    later.set()
    assert asking.take(WAIT) == Answer("later", "later", None)
    assert list(asking.open) == ["hangs"]
    assert asking.take(0.02) is None


def test_an_abandoned_question_disturbs_nobody(end: threading.Event) -> None:
    release, answered = threading.Event(), threading.Event()

    def question() -> str:
        wait_for(release)
        answered.set()
        raise ValueError("nobody hears this")

    assert isinstance(next(ask_all({"x": question}, 0.02)).error, Unavailable)
    release.set()
    wait_for(answered)
    assert list(ask_all({"y": lambda: 1}, WAIT)) == [Answer("y", 1, None)]


def test_a_site_is_told_from_another_by_its_place() -> None:
    one, other = MemoryStore(), MemoryStore()
    assert Site(3, "nas", one) == Site(3, "nas", other)
    assert Site(3, "nas", one) != Site(4, "nas", one)
    assert "MemoryStore" not in repr(Site(3, "nas", one))


def test_notes_are_said_once_and_in_order() -> None:
    notes = Notes()
    for store, text in [("b", "late"), ("a", "full"), ("b", "late"), ("b", "damaged"), ("a", "full")]:
        notes.add(store, text)
    assert notes.lines == ["b: late", "a: full", "b: damaged"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Unavailable("no route"), "no route"),
        (Busy("later", 5.0), "later"),
        (ValueError("odd"), "ValueError: odd"),
        (None, "no answer"),
    ],
)
def test_failures_in_words(error: Exception | None, text: str) -> None:
    assert explain(error) == text
