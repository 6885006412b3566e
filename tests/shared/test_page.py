"""The page: figures from one writer to many readers, never half a figure."""

from __future__ import annotations

import os

import pytest

from worker.errors import PageError
from worker.shared.page import PAGE_BYTES, PageReader, PageWriter, create_page, read_only


@pytest.fixture
def fd():
    made = create_page()
    yield made
    os.close(made)


def _figures(page: PageReader) -> tuple:
    return page.route_generation, page.event_seq, page.draining, page.ready, page.coordinator_beat_us


def test_a_new_page_says_nothing_yet(fd: int) -> None:
    page = PageReader(fd)
    assert (0, 0, False, False, 0) == _figures(page)
    page.close()


def test_a_reader_sees_what_the_writer_has_set(fd: int) -> None:
    writer, readable = PageWriter(fd), read_only(fd)
    reader = PageReader(readable)
    writer.set_route_generation(3)
    writer.set_event_seq(2**64 - 1)
    writer.set_draining(True)
    writer.set_ready(True)
    writer.beat(12_345)
    assert (3, 2**64 - 1, True, True, 12_345) == _figures(reader)
    reader.close()
    writer.close()
    os.close(readable)


def test_how_full_the_worker_is_stands_there_too(fd: int) -> None:
    writer, reader = PageWriter(fd), PageReader(fd)
    assert (0, 0, 0, 0) == (reader.runners_total, reader.runners_free, reader.queued_tasks, reader.waiting_calls)
    writer.set_load(8, 3, 20, 5)
    assert (8, 3, 20, 5) == (reader.runners_total, reader.runners_free, reader.queued_tasks, reader.waiting_calls)
    assert (0, 0, False, False, 0) == _figures(reader)
    reader.close()
    writer.close()


def test_figures_outlive_their_writer(fd: int) -> None:
    first = PageWriter(fd)
    first.set_route_generation(9)
    first.close()
    second = PageWriter(fd)
    assert 9 == second.route_generation
    second.close()


def test_nothing_can_be_written_through_a_read_only_descriptor(fd: int) -> None:
    readable = read_only(fd)
    with pytest.raises(PageError):
        PageWriter(readable)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(readable, b"x")
    os.close(readable)


def test_nobody_can_shrink_the_page_under_a_reader(fd: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)


@pytest.mark.parametrize("content", [b"", b"\0" * PAGE_BYTES, b"galapage" + b"\xff" * (PAGE_BYTES - 8)])
def test_what_is_no_page_is_refused(content: bytes) -> None:
    fd = os.memfd_create("other")
    os.write(fd, content)
    with pytest.raises(PageError):
        PageReader(fd)
    os.close(fd)


def test_a_reader_in_another_process_never_sees_half_a_figure(fd: int) -> None:
    patterns = (0, 2**64 - 1, 0x0123456789ABCDEF)
    stop_read, stop_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(stop_write)
            writer, turn = PageWriter(fd), 0
            os.set_blocking(stop_read, False)
            while True:
                for _ in range(1000):
                    turn += 1
                    writer.set_event_seq(patterns[turn % 3])
                try:
                    os.read(stop_read, 1)
                    break
                except BlockingIOError:
                    continue
        finally:
            os._exit(0)
    os.close(stop_read)
    reader = PageReader(fd)
    seen: set[int] = set()
    reads = 0
    while reads < 300_000 or len(seen) < 3:
        seen.add(reader.event_seq)
        reads += 1
    os.close(stop_write)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert set(patterns) == seen
    reader.close()
