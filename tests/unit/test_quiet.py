"""Loggers of libraries are silent in the thread that asked for it, and heard in all others."""

import logging
import threading

import pytest

from glimpse.sources.quiet import quiet


def test_a_logger_is_heard_again_after_two_threads_have_crossed(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.crossing")
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with quiet(logger):
            first_is_in.set()
            second_is_in.wait(5)
            logger.error("said in the first thread")
        first_is_out.set()

    def second() -> None:  # enters while the first is inside, and leaves after it
        first_is_in.wait(5)
        with quiet(logger):
            second_is_in.set()
            first_is_out.wait(5)
            logger.error("said in the second thread")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    first_is_in.wait(5)
    logger.error("said outside, meanwhile")
    for thread in threads:
        thread.join()
    assert not logger.disabled
    logger.error("said afterwards")
    assert caplog.messages == ["said outside, meanwhile", "said afterwards"]


def test_silence_can_be_nested_and_ends_with_errors(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.nesting")
    with pytest.raises(ValueError, match="damaged"), quiet(logger):
        with quiet(logger):
            logger.error("inside")
        logger.error("still inside")
        raise ValueError("damaged")
    logger.error("outside")
    assert caplog.messages == ["outside"]
