"""The newest and most urgent request comes first."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gradsam_exp.errors import InputError
from gradsam_exp.explorer.desk import Desk, Work


class Told:
    """What is told to one who asks."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ended = threading.Event()

    def __call__(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if message.keys() & {"answer", "error", "dropped"}:
            self.ended.set()

    def last(self) -> dict[str, Any]:
        assert self.ended.wait(10)
        return self.messages[-1]


def quick(value: object) -> Work:
    yield from ()
    return {"value": value}


@pytest.fixture
def desk() -> Desk:
    return Desk(("urgent", "slow"))


def test_work_tells_and_answers(desk: Desk):
    def work() -> Work:
        yield {"now": "one"}
        return {"value": 1}

    told = Told()
    desk.ask("urgent", "page", work(), told)
    assert told.last() == {"answer": {"value": 1}}
    assert told.messages[0] == {"now": "one"}


def test_urgent_work_is_done_between_the_steps_of_other_work(desk: Desk):
    begun, go, log = threading.Event(), threading.Event(), []

    def slow() -> Work:
        begun.set()
        assert go.wait(10)
        yield {}
        log.append("slow")
        return {}

    def urgent() -> Work:
        log.append("urgent")
        yield {}
        return {}

    slow_told, urgent_told = Told(), Told()
    desk.ask("slow", "page", slow(), slow_told)
    assert begun.wait(10)
    desk.ask("urgent", "page", urgent(), urgent_told)
    go.set()
    urgent_told.last()
    slow_told.last()
    assert log == ["urgent", "slow"]


def test_the_newest_of_a_kind_and_a_page_replaces_the_one_before(desk: Desk):
    begun, go, closed = threading.Event(), threading.Event(), threading.Event()

    def endless() -> Work:
        try:
            while True:
                begun.set()
                assert go.wait(10)
                yield {}
        finally:
            closed.set()

    old, of_another_page, new = Told(), Told(), Told()
    desk.ask("urgent", "page", endless(), old)
    assert begun.wait(10)
    desk.ask("urgent", "page", quick("new"), new)
    desk.ask("urgent", "other page", quick("other"), of_another_page)
    go.set()
    assert old.last() == {"dropped": True}
    assert new.last() == {"answer": {"value": "new"}}
    assert of_another_page.last() == {"answer": {"value": "other"}}
    assert closed.wait(10), "what nobody waits for ends"
    assert len([one for one in old.messages if "dropped" in one]) == 1


def test_errors_are_told_and_the_desk_goes_on(desk: Desk, caplog: pytest.LogCaptureFixture):
    def refused() -> Work:
        yield {}
        raise InputError("bg_threshold is wrong")

    def broken() -> Work:
        yield {}
        raise ZeroDivisionError("a bug")

    for work, error in (
        (refused(), "bg_threshold is wrong"),
        (broken(), "ZeroDivisionError: a bug (more in run.log)"),
    ):
        told = Told()
        desk.ask("urgent", "page", work, told)
        assert told.last() == {"error": error}
    told = Told()
    desk.ask("urgent", "page", quick(3), told)
    assert told.last() == {"answer": {"value": 3}}
    assert "a bug" in caplog.text


def test_a_request_that_was_dropped_tells_nothing(desk: Desk):
    go, gone = threading.Event(), threading.Event()

    def work() -> Work:
        try:
            assert go.wait(10)
            yield {"now": "one"}
            return {}
        finally:
            gone.set()

    told = Told()
    desk.drop(desk.ask("urgent", "page", work(), told))
    go.set()
    after = Told()
    desk.ask("slow", "page", quick(1), after)
    after.last()
    assert told.messages == []
