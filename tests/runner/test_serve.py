"""A sealed server: calls in, answers out; limits, reuse, recycling, and how it is told to end."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runner.protocol import F32, F64, I32, I64
from runner.protocol.call import FLAG_CANCEL
from runner.protocol.record import BUSY_SINCE, CALLS, DEADLINE, WORDS
from runner.protocol.status import BYE, READY
from tests.e2e.harness import wait_for
from tests.runner.call_guests import (
    COUNT,
    DEEDS,
    ECHO,
    ENVIRONMENT,
    EXIT,
    FLOOD,
    LOG,
    LOOP,
    NUMBERS,
    SLEEP,
    TRAP,
    ZERO,
    handler,
)
from tests.runner.call_host import Service, hear
from tests.runner.test_process import EVERYWHERE, names
from tests.runner.zygote_host import MIB, ZygoteHost

Deploy = Callable[..., Service]
Artifact = Callable[..., int]


@pytest.fixture
def deploy(start_zygote: Callable[..., ZygoteHost], artifact: Artifact, tmp_path: Path) -> Iterator[Deploy]:
    """`deploy(guest, **SERVE's fields)`: a WAGI handler that is ready; with `export=`, `params=`, `results=` that."""
    host = start_zygote()
    with ExitStack() as stack:

        def start(guest: str, **options: Any) -> Service:
            service = stack.enter_context(Service(host, artifact(guest), tmp_path / f"{len(host.runs)}.sock"))
            if "export" in options:
                return service.serve_export(options.pop("export"), **options).ready()
            return service.serve(**options).ready()

        yield start


# -- calls -----------------------------------------------------------------------------------------------------------


def test_whoever_runs_the_worker_has_functions(zygote: ZygoteHost, artifact: Artifact, tmp_path: Path) -> None:
    with Service(zygote, artifact(ECHO), tmp_path / "s") as service:
        layers = names(service.serve().run.ready_layers())
        assert EVERYWHERE <= layers
        assert b"hello" == service.call(b"hello").body
        service.retire()
        assert (0, True) == service.finish()


def test_a_server_that_is_woken_preempts_nobody(deploy: Deploy) -> None:
    served = deploy(ECHO)
    threads = [int(name) for name in os.listdir(f"/proc/{served.run.pid}/task")]
    assert {os.SCHED_BATCH} == {os.sched_getscheduler(thread) for thread in threads}


def test_an_export_is_called_with_numbers_and_answers_numbers(deploy: Deploy) -> None:
    add = deploy(NUMBERS, export=b"add", params=(I32, I32), results=(I32,))
    assert [42] == add.export(40, 2)
    assert [1] == add.export(0xFFFFFFFF, 2)  # i32, whatever its upper bits are
    swap = deploy(NUMBERS, export=b"swap", params=(I64, F64, F32), results=(F32, F64, I64))
    one, two = struct.unpack("<QI", struct.pack("<df", 1.5, -2.25))
    assert [two, one, 2**63] == swap.export(2**63, one, two)


def test_a_handler_gets_body_variables_and_arguments(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    for size in (0, 1, 50_000, 65_536, 200_000):
        body = os.urandom(size)
        assert ("exit", 0, body) == _told(echo.call(body))
    environment = deploy(ENVIRONMENT, env=(b"OWN=1",), args=(b"me", b"--x"))
    for value in (b"A=1", b"B=22"):
        answer = environment.call(b"", value, b"C=%s" % (b"c" * 3000))
        assert b"OWN=1\0" + value + b"\0C=" + b"c" * 3000 + b"\0me\0--x\0\0" == answer.body


def test_an_answer_tells_what_it_cost(deploy: Deploy) -> None:
    answer = deploy(DEEDS).call(LOG)
    assert 131_072 == answer.peak_memory_bytes
    assert 100 < answer.fuel_used < 10_000
    assert 0 < answer.queue_us + answer.init_us + answer.run_us < 10_000_000


def _told(answer: Any) -> tuple[str, int | None, bytes]:
    return answer.reason, answer.exit_code, answer.body


def test_each_end_has_its_reason(deploy: Deploy) -> None:
    deeds = deploy(DEEDS, output_bytes=2000)
    assert ("exit", 0, b"ok") == _told(deeds.call(ZERO))
    assert ("nonzero_exit", 7, b"") == _told(deeds.call(EXIT))
    assert ("output_limit", None, b"") == _told(deeds.call(FLOOD))
    answer = deeds.call(TRAP)
    assert ("trap", "unreachable_code_reached", b"") == (answer.reason, answer.trap_code, answer.body)
    assert answer.detail
    assert ("fuel", None, b"") == _told(deeds.call(LOOP, fuel=10_000))
    assert ("deadline", None, b"") == _told(deeds.call(LOOP, fuel=2**62, wall_ms=20))
    assert ("exit", 0, b"ok") == _told(deeds.call(ZERO))


def test_an_export_that_exits_has_no_results(deploy: Deploy) -> None:
    guest = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "leave") (param i32) (result i32) (call $exit (local.get 0)) unreachable))"""
    leave = deploy(guest, export=b"leave", params=(I32,), results=(I32,))
    for code in (0, 3):
        assert ("nonzero_exit", code, b"") == _told(leave.call(struct.pack("<Q", code)))


@pytest.mark.parametrize(
    ("start", "reason"),
    [("(loop $l (br $l))", "fuel"), ("unreachable", "trap"), ("(call $exit (i32.const 3))", "nonzero_exit")],
)
def test_a_start_function_is_within_the_calls_limits(deploy: Deploy, start: str, reason: str) -> None:
    service = deploy(handler("", f"(start $s) (func $s {start})"))
    for _ in range(2):
        assert reason == service.call(fuel=100_000).reason


def test_a_reactor_is_initialized_before_its_export(deploy: Deploy) -> None:
    guest = """(module (global $g (mut i32) (i32.const 1)) (func (export "_initialize") (global.set $g (i32.const 9)))
        (func (export "get") (result i32) (global.get $g) (global.set $g (i32.const 2))))"""
    service = deploy(guest, export=b"get", params=(), results=(I32,))
    assert [[9], [9]] == [service.export(), service.export()]


def test_a_call_may_lower_its_limits_and_never_raise_them(deploy: Deploy) -> None:
    spin = deploy(NUMBERS, export=b"spin", params=(), results=(), fuel=50_000, wall_ms=5_000)
    answer = spin.call(fuel=1000)
    assert ("fuel", True) == (answer.reason, answer.fuel_used <= 1000)
    answer = spin.call(fuel=2**62)
    assert ("fuel", True) == (answer.reason, answer.fuel_used <= 50_000)
    spin = deploy(NUMBERS, export=b"spin", params=(), results=(), fuel=2**62, wall_ms=30)
    answer = spin.call(fuel=2**62, wall_ms=60_000)
    assert ("deadline", True) == (answer.reason, answer.run_us < 2_000_000)


# -- isolation, reuse ------------------------------------------------------------------------------------------------


def test_nothing_of_one_call_is_there_in_the_next(deploy: Deploy) -> None:
    """Its global, its memory, and what it left unread of its body."""
    count = deploy(COUNT)
    assert [b"11a", b"11b", b"11\0"] == [count.call(body).body for body in (b"a unread", b"b", b"")]


def test_an_instance_is_kept_where_the_service_says_so(deploy: Deploy) -> None:
    count = deploy(COUNT, reuse_calls=3, reuse_memory_bytes=64 * MIB)
    assert [b"11a", b"22b", b"33b", b"11c"] == [count.call(body).body for body in (b"a unread", b"b", b"", b"c")]


def test_a_kept_instance_is_given_up_after_any_end_but_a_return(deploy: Deploy) -> None:
    count = deploy(COUNT, reuse_calls=100, reuse_memory_bytes=64 * MIB)
    assert [b"11a", b"22a"] == [count.call(b"a").body, count.call(b"a").body]
    assert "trap" == count.call(b"X").reason
    assert b"11a" == count.call(b"a").body
    assert "exit" == count.call(b"Z").reason  # proc_exit(0)
    assert b"11a" == count.call(b"a").body
    assert "fuel" == count.call(b"a", fuel=10).reason
    assert b"11a" == count.call(b"a").body


def test_a_kept_instance_is_given_up_once_it_is_too_large(deploy: Deploy) -> None:
    count = deploy(COUNT, reuse_calls=100, reuse_memory_bytes=131_072)
    answers = [count.call(body) for body in (b"a", b"a", b"G", b"a")]
    assert [b"11a", b"22a", b"33G", b"11a"] == [answer.body for answer in answers]
    assert [131_072, 131_072, 786_432, 131_072] == [answer.peak_memory_bytes for answer in answers]


def test_a_kept_instance_has_each_calls_own_limits(deploy: Deploy) -> None:
    """Fuel isn't saved up, and the deadline is counted anew: 20 calls of some ms under one of 60."""
    slow = """(module (func (export "slow") (local $n i32) (local.set $n (i32.const {}))
        (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"""
    service = deploy(
        slow.format(3_000_000), export=b"slow", params=(), results=(), wall_ms=60, reuse_calls=50, fuel=2**40
    )
    reasons = {service.call(fuel=2**40).reason for _ in range(20)}
    assert "exit" in reasons  # on a loaded machine some may be late
    used = {service.call(fuel=2**40, wall_ms=60).fuel_used for _ in range(3)}
    assert max(used) < 20_000_000


# -- marks, gone askers ----------------------------------------------------------------------------------------------


def test_a_call_that_runs_longer_than_a_tick_is_marked_once(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    marks, answer = hear(deeds.ask(LOOP, fuel=2**62, wall_ms=100))
    assert answer is not None
    assert (1, "deadline") == (marks, answer.reason)


def test_a_guest_that_blocks_in_the_host_dies_by_its_alarm(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    assert (1, None) == hear(deeds.ask(SLEEP, wall_ms=50))
    assert (-signal.SIGALRM, False) == deeds.finish()


def test_the_alarm_of_one_call_does_not_reach_the_next(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    assert "exit" == deeds.call(ZERO, wall_ms=1).reason
    assert "deadline" == deeds.call(LOOP, fuel=2**62, wall_ms=400).reason


def test_nothing_is_executed_for_an_asker_that_has_gone(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    busy = deeds.ask(LOOP, fuel=2**62, wall_ms=100)
    for gone in [deeds.ask(LOG) for _ in range(5)]:
        gone.close()
    hear(busy)
    assert "exit" == deeds.call(ZERO).reason
    assert b"" == deeds.log()


def test_an_asker_that_goes_later_does_not_matter(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    asker = deeds.ask(LOOP, fuel=2**62, wall_ms=60)
    wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
    asker.close()
    assert "exit" == deeds.call(ZERO).reason


def test_a_call_is_cancelled_when_its_asker_goes(deploy: Deploy) -> None:
    """Where the service says so; and what was pushed for it never ends the next one, nor the one after."""
    deeds = deploy(DEEDS, wall_ms=30_000)
    for _ in range(3):
        asker = deeds.ask(LOOP, fuel=2**62, wall_ms=30_000, flags=FLAG_CANCEL)
        wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
        asker.close()
        assert "fuel" == deeds.call(LOOP, fuel=30_000_000, wall_ms=30_000, flags=FLAG_CANCEL).reason


def test_a_guest_that_blocks_in_the_host_goes_with_its_asker(deploy: Deploy) -> None:
    """No epoch reaches it: it has the alarm's margin, and not the half hour that it might run for."""
    deeds = deploy(DEEDS, wall_ms=1_800_000)
    asker = deeds.ask(SLEEP, wall_ms=1_800_000, flags=FLAG_CANCEL)
    wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
    asker.close()
    assert (-signal.SIGALRM, False) == deeds.finish()


def test_calls_that_wait_are_served_in_their_order(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    askers = [echo.ask(b"%d" % number) for number in range(40)]
    answers = [hear(asker)[1] for asker in askers]
    assert [b"%d" % number for number in range(40)] == [answer.body for answer in answers if answer]


# -- the record, the log ---------------------------------------------------------------------------------------------


def test_the_record_tells_what_it_does(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    assert [0] * WORDS == deeds.record()
    asker = deeds.ask(LOOP, fuel=2**62, wall_ms=200)
    wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
    record = deeds.record()
    assert 400_000 == record[DEADLINE] - record[BUSY_SINCE]
    assert 0 == record[CALLS]
    hear(asker)
    wait_for(lambda: not deeds.record()[BUSY_SINCE], "the call is over")
    assert 1 == deeds.record()[CALLS]


def test_a_full_log_is_no_error_for_the_guest(deploy: Deploy) -> None:
    """100,000 bytes are written to stderr; the file takes 2,000, of all calls together."""
    deeds = deploy(DEEDS, output_bytes=2000)
    for _ in range(3):
        assert ("exit", 0, b"ok") == _told(deeds.call(LOG))
        assert 2000 == len(deeds.log())


# -- the end ---------------------------------------------------------------------------------------------------------


def test_one_that_is_retired_says_bye(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    assert "exit" == echo.call().reason
    echo.retire()
    assert (0, True) == echo.finish()


def test_a_listener_that_is_shut_serves_what_is_queued_first(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    askers = [deeds.ask(LOOP, fuel=2**62, wall_ms=50), *[deeds.ask(ZERO) for _ in range(5)]]
    deeds.shut()
    with pytest.raises(ConnectionRefusedError):
        deeds.connect()
    answers = [hear(asker)[1] for asker in askers]
    assert ["deadline"] + ["exit"] * 5 == [answer.reason for answer in answers if answer]
    assert (0, True) == deeds.finish()


def test_one_that_is_told_by_its_record_ends_after_its_call_whatever_waits(deploy: Deploy) -> None:
    deeds = deploy(DEEDS)
    busy = deeds.ask(LOOP, fuel=2**62, wall_ms=100)
    wait_for(lambda: deeds.record()[BUSY_SINCE], "the call runs")
    queued = deeds.ask(ZERO)
    deeds.tell_to_end()
    answer = hear(busy)[1]
    assert answer is not None
    assert ("deadline", 0, True) == (answer.reason, *deeds.finish())
    deeds.listener.close()
    assert (0, None) == hear(queued)


def test_one_is_worn_out_after_so_many_calls(deploy: Deploy) -> None:
    echo = deploy(ECHO, recycle_calls=3)
    assert ["exit"] * 3 == [echo.call().reason for _ in range(3)]
    assert (0, True) == echo.finish()


def test_one_is_worn_out_by_its_processor_time(deploy: Deploy) -> None:
    deeds = deploy(DEEDS, recycle_cpu_us=30_000)
    assert "deadline" == deeds.call(LOOP, fuel=2**62, wall_ms=300).reason
    assert (0, True) == deeds.finish()


def test_one_is_worn_out_by_its_memory(deploy: Deploy) -> None:
    """Several copies of a variable of 15 MB leave the process large, whatever its guest's memory is."""
    environment = deploy(ENVIRONMENT, memory_bytes=MIB)
    asker = environment.ask(b"", b"A=" + bytes(15 * MIB).replace(b"\0", b"a"))
    assert (0, True) == environment.finish()
    assert hear(asker)[1] is not None


def test_a_long_body_wears_nothing_out_and_is_not_kept(start_zygote: Any, artifact: Artifact, tmp_path: Path) -> None:
    host = start_zygote(f"max_call_bytes={64 * MIB}")
    with Service(host, artifact(DEEDS), tmp_path / "s") as service:
        service.serve(memory_bytes=MIB).ready()
        before = service.resident_bytes()
        for _ in range(2):  # over a tick: then a runner looks what it has used
            answer = service.call(LOOP + bytes(48 * MIB), fuel=2**62, wall_ms=50)
            assert "deadline" == answer.reason
        wait_for(lambda: service.resident_bytes() < before + 4 * MIB, "the body is gone")
        assert 2 == service.record()[CALLS]
        service.retire()
        assert (0, True) == service.finish()


def test_end_of_control_before_serve_is_the_end(zygote: ZygoteHost, artifact: Artifact, tmp_path: Path) -> None:
    with Service(zygote, artifact(ECHO), tmp_path / "s") as service:
        service.run.hang_up()
        assert (0, True) == service.finish()


def test_ready_comes_when_it_is_sealed_and_once(deploy: Deploy) -> None:
    echo = deploy(ECHO)
    echo.retire()
    echo.finish()
    assert [BYE] == [kind for kind, _ in echo.run.frames if kind in (READY, BYE)]
