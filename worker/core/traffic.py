"""What is seen of a revision's calls, and what follows of it for its runners.

    WATCHED --a call waits--> SAMPLED --nothing for some samples--> WATCHED

Calls go past the coordinator. While they come, the length of the queue and the runners' records are read every few
milliseconds; where none come, nothing is read and no timer runs, but for the one that gives up idle runners.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.core.clock import Now
from worker.core.effects import CloseListener, Effect, OpenListener, RetireServer, SampleCalls, ShutListener, WatchCalls
from worker.core.pool import Pool, Runner, RunnerState
from worker.core.revision import Busy, Listening, Revision
from worker.core.runners import Runners
from worker.core.scaling import surplus
from worker.core.timers import Timer, Timers

SAMPLE = Timer("sample", "")
SAMPLE_US = 10_000
SLOW_SAMPLE_US = 50_000  # where no call has waited for a while, or no runner may be added
SLOW_AFTER = 10  # samples without a queue
QUIET_AFTER = 5  # samples without anything
# The runner's own alarm comes 200 ms after a call's end was due, and is within the deadline that its record tells
# (DESIGN 6); ours follows as much later where that didn't help.
ALARM_US = 200_000
KILL_MARGIN_US = 200_000
STALL_US = 100_000  # calls wait, none is answered: runners that seem idle aren't counted on
STUCK_US = 2_000_000  # and are killed then: as long as any of the worker's processes may be silent (DESIGN 3)
RETIRE_US = 2_000_000  # by when one runner has heard that one should end; else nobody has, or it is still in the queue
KINDS = ("shrink", "retire")


class Traffic:
    """The revisions that are watched or sampled. `revisions` are all that are alive, by their task's id."""

    def __init__(
        self,
        revisions: Mapping[str, Revision],
        pool: Pool,
        runners: Runners,
        timers: Timers,
        effects: list[Effect],
    ) -> None:
        self._revisions = revisions
        self._pool = pool
        self._runners = runners
        self._timers = timers
        self._effects = effects
        self._sampled: dict[str, Revision] = {}

    # -- the listener ------------------------------------------------------------------------------------------------

    def open(self, revision: Revision, now: Now) -> None:
        """Calls may wait from now on."""
        if revision.listening is Listening.CLOSED:
            revision.window_us = revision.active_us = now.monotonic_us
            revision.most_busy = 0
            self._effects.append(OpenListener(revision.live.task))
            self._watch(revision)

    def shut(self, revision: Revision, now: Now) -> None:
        """No more calls are taken; what waits is still served, and watched until it is."""
        if revision.listening in (Listening.WATCHED, Listening.SAMPLED):
            self._effects.append(ShutListener(revision.id))
            self._sample(revision, Listening.SHUT, now)
            self._cancel(revision)

    def close(self, revision: Revision) -> None:
        """Nothing can wait any more, and what did was not executed."""
        if revision.listening is not Listening.CLOSED:
            self._effects.append(CloseListener(revision.id))
            revision.listening = Listening.CLOSED
        self._sample_no_more(revision)
        self._cancel(revision)
        revision.queued, revision.queued_since_us, revision.stalled, revision.unheard = 0, None, False, 0

    # -- what is seen ------------------------------------------------------------------------------------------------

    def call_waits(self, task_id: str, now: Now) -> None:
        """The answer to WatchCalls. Where a runner is there, it probably has the call by now: the sample will tell."""
        revision = self.look(task_id, now)
        if revision is not None and not revision.count(RunnerState.SERVING):
            self._queue(revision, max(1, revision.queued), now)

    def look(self, task_id: str, now: Now) -> Revision | None:
        """Its runners' records show that calls run or were answered: where it was only watched, it is sampled now.

        A call that an idle runner takes at once may never be seen to wait, and still needs an eye on its deadline.
        """
        revision = self._revisions.get(task_id)
        if revision is None or revision.listening is not Listening.WATCHED:
            return None
        self._sample(revision, Listening.SAMPLED, now)
        self._timers.cancel(Timer("shrink", revision.id))
        revision.progress_us = now.monotonic_us
        return revision

    def sampled(self, revision: Revision, queued: int, busy: Mapping[int, int], calls: int, now: Now) -> None:
        """The answer to SampleCalls: the length of the queue, and what the runners' records say."""
        if not revision.sampled:
            return
        answered = calls != revision.calls
        revision.calls = calls
        self._see_busy(revision, busy, now)
        revision.unheard = min(revision.unheard, queued)
        waiting = queued - revision.unheard if revision.able else queued
        if answered or not waiting:
            revision.progress_us = now.monotonic_us
        self._queue(revision, waiting, now)
        revision.may_grow = True
        used = len(revision.busy) + revision.queued
        revision.most_busy = max(revision.most_busy, used)
        revision.unqueued = 0 if revision.queued else revision.unqueued + 1
        revision.quiet = 0 if used or answered else revision.quiet + 1
        if not revision.quiet:
            revision.active_us = now.monotonic_us
        self._kill_overdue(revision, now)
        self._kill_stuck(revision, now)
        self._end_window(revision, now)
        if revision.quiet >= QUIET_AFTER and revision.listening is Listening.SAMPLED:
            self._watch(revision)
            self.rest(revision)

    def take_samples(self, now: Now) -> None:
        """The time has come to read the figures of those that are due."""
        due = [one for one in self._sampled.values() if one.sample_due_us <= now.monotonic_us]
        for revision in due:
            late_us = now.monotonic_us - revision.sample_due_us
            if late_us >= STALL_US:
                # It was us who stood still, and saw nothing meanwhile: that time alone doesn't count. (Had it begun
                # anew, nobody would ever be stuck for a coordinator that is late again and again.)
                revision.progress_us = min(revision.progress_us + late_us, now.monotonic_us)
            full = revision.able >= revision.service.scale.max
            slow = full or revision.unqueued >= SLOW_AFTER
            revision.sample_due_us = now.monotonic_us + (SLOW_SAMPLE_US if slow else SAMPLE_US)
        if due:
            self._effects.append(SampleCalls(tuple(revision.id for revision in due)))
        self._timers.set(SAMPLE, min(revision.sample_due_us for revision in self._sampled.values()))

    # -- fewer runners -----------------------------------------------------------------------------------------------

    def rest(self, revision: Revision) -> None:
        """Nothing goes on: runners beyond its minimum are given up when they have idled for long enough."""
        if revision.listening is Listening.WATCHED:
            due_us = revision.active_us + revision.service.scale.idle_ms * 1000
            self._timers.set(Timer("shrink", revision.id), due_us)

    def shrink(self, revision: Revision, now: Now) -> None:
        """It has idled for long enough."""
        self.retire(revision, surplus(revision.load(has_artifact=True), 0), now)

    def retire(self, revision: Revision, count: int, now: Now) -> None:
        """`count` of its runners end, whichever hear it first. What is still in the queue from before counts."""
        if count and revision.listening in (Listening.WATCHED, Listening.SAMPLED):
            forgotten = max(0, revision.unheard - revision.asked)
            self._effects.extend([RetireServer(revision.id)] * (count - forgotten))
            revision.asked += count
            if not revision.told:  # who was told may take longer
                self._timers.set(Timer("retire", revision.id), now.monotonic_us + RETIRE_US)

    def retire_asked(self, task_id: str, runner_id: int | None, now: Now) -> None:
        """The answer to RetireServer: a message was sent (None), or this runner was told by its record.

        That one hears it when its call is over, at its deadline at last.
        """
        revision = self._revisions.get(task_id)
        if revision is None or not revision.asked:  # it is gone, or nobody is to end any more
            return
        if runner_id is None:
            revision.unheard += 1
        elif runner_id in revision.runners:
            revision.asked -= 1
            revision.told.add(runner_id)
            call_us = revision.live.task.spec.limits.wall_ms * 1000 + ALARM_US
            self._timers.set(Timer("retire", revision.id), now.monotonic_us + call_us + RETIRE_US)

    def retired(self, revision: Revision, runner: Runner) -> bool:
        """It has said that it ends: whether one was asked to."""
        if runner.id in revision.told:
            return True
        asked = revision.asked > 0 or revision.unheard > 0
        revision.asked, revision.unheard = max(0, revision.asked - 1), max(0, revision.unheard - 1)
        self._calm(revision)
        return asked

    def gone(self, revision: Revision, runner_id: int) -> None:
        """The runner is no more. Without any there are no records to read, and the listener tells of the next call."""
        revision.busy.pop(runner_id, None)
        revision.told.discard(runner_id)
        self._calm(revision)
        waits = revision.queued or revision.unheard
        if revision.listening is Listening.SAMPLED and not (revision.runners or waits):
            self._watch(revision)

    def none_retired(self, revision: Revision) -> None:
        """Whoever should have heard it by now has not; what is still in the queue is heard one day."""
        revision.asked = 0
        revision.told.clear()
        if not (revision.busy or revision.queued):
            revision.unheard = 0
        self._pool.stale = True

    # -- within ------------------------------------------------------------------------------------------------------

    def _watch(self, revision: Revision) -> None:
        self._sample_no_more(revision)
        revision.listening = Listening.WATCHED
        self._effects.append(WatchCalls(revision.id))

    def _sample(self, revision: Revision, listening: Listening, now: Now) -> None:
        revision.listening = listening
        revision.quiet = revision.unqueued = 0
        revision.sample_due_us = now.monotonic_us + SAMPLE_US
        self._sampled[revision.id] = revision
        self._timers.set_earlier(SAMPLE, revision.sample_due_us)

    def _sample_no_more(self, revision: Revision) -> None:
        self._sampled.pop(revision.id, None)
        if not self._sampled:
            self._timers.cancel(SAMPLE)

    def _queue(self, revision: Revision, queued: int, now: Now) -> None:
        if queued and not revision.queued:
            revision.queued_since_us = now.monotonic_us
        elif not queued:
            revision.queued_since_us = None
        revision.queued = queued
        revision.stalled = queued > 0 and now.monotonic_us - revision.progress_us >= STALL_US
        if queued:
            self._pool.stale = True

    def _see_busy(self, revision: Revision, busy: Mapping[int, int], now: Now) -> None:
        """A call is known by its deadline; a record that tells another one tells of another call."""
        seen = {}
        for runner_id, deadline_us in busy.items():
            runner = revision.runners.get(runner_id)
            if runner is not None and runner.state is RunnerState.SERVING:
                before = revision.busy.get(runner_id)
                same = before is not None and before.deadline_us == deadline_us
                seen[runner_id] = before if before and same else Busy(deadline_us, now.monotonic_us)
        revision.busy = seen

    def _kill_overdue(self, revision: Revision, now: Now) -> None:
        """A record can't buy more time than the service's limit, whatever it tells."""
        most_us = revision.live.task.spec.limits.wall_ms * 1000 + ALARM_US
        for runner_id, busy in list(revision.busy.items()):
            if now.monotonic_us >= min(busy.deadline_us, busy.seen_us + most_us) + KILL_MARGIN_US:
                self._runners.kill(revision.runners[runner_id], "deadline")
                del revision.busy[runner_id]

    def _kill_stuck(self, revision: Revision, now: Now) -> None:
        if not revision.queued or now.monotonic_us - revision.progress_us < STUCK_US:
            return
        for runner in list(revision.runners.values()):
            if runner.state is RunnerState.SERVING and runner.id not in revision.busy:
                self._runners.kill(runner, "stuck")
        revision.progress_us = now.monotonic_us

    def _end_window(self, revision: Revision, now: Now) -> None:
        """However many were in use at once over a whole idle time is as many as it needs."""
        if now.monotonic_us - revision.window_us >= revision.service.scale.idle_ms * 1000:
            self.retire(revision, surplus(revision.load(has_artifact=True), revision.most_busy), now)
            revision.window_us = now.monotonic_us
            revision.most_busy = len(revision.busy) + revision.queued

    def _cancel(self, revision: Revision) -> None:
        for kind in KINDS:
            self._timers.cancel(Timer(kind, revision.id))
        revision.asked = 0
        revision.told.clear()

    def _calm(self, revision: Revision) -> None:
        if not (revision.asked or revision.told):
            self._timers.cancel(Timer("retire", revision.id))
