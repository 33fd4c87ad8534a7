"""Events and their followers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from modules.jobs.events import Event, EventHub


def step(n: int, **more: Any) -> Event:
    return {"type": "step", "step": n, "steps": 20, **more}


async def collect(hub: EventHub, job_id: str, after: int = 0) -> list[Event]:
    return [event async for event in hub.follow(job_id, after)]


def test_follower_hears_everything_in_order_until_the_end() -> None:
    hub = EventHub()

    def work() -> None:
        hub.publish("job", {"type": "started"})
        for n in range(1, 6):
            hub.publish("job", step(n))
        hub.publish("job", {"type": "done", "output": {}})

    async def main() -> list[Event]:
        following = asyncio.create_task(collect(hub, "job"))
        while "job" not in hub.watched():
            await asyncio.sleep(0)
        thread = threading.Thread(target=work)
        thread.start()
        events = await following
        thread.join()
        return events

    events = asyncio.run(main())
    assert [event["seq"] for event in events] == list(range(1, 8))
    assert [event.get("step") for event in events] == [None, 1, 2, 3, 4, 5, None]
    assert {event["job"] for event in events} == {"job"} and hub.watched() == set()


def test_late_joiner_gets_the_images_the_last_step_and_the_end() -> None:
    hub = EventHub()
    for event in ({"type": "queued", "position": 2}, {"type": "queued", "position": 1}, {"type": "started"}):
        hub.publish("job", event)
    for n in range(3):
        hub.publish("job", step(n))
        hub.publish("job", {"type": "image", "path": f"{n}.png"})
    assert [event["type"] for event in hub.snapshot("job")] == ["queued", "started", "image", "image", "step", "image"]
    hub.publish("job", {"type": "done", "output": {}})
    events = asyncio.run(collect(hub, "job"))
    assert events[0]["position"] == 1 and events[-1]["type"] == "done"
    assert [event["step"] for event in events if event["type"] == "step"] == [2]
    assert asyncio.run(collect(hub, "job", after=events[-2]["seq"])) == events[-1:]
    assert asyncio.run(collect(hub, "job", after=events[-1]["seq"])) == []


def test_number_from_before_a_restart_starts_from_the_beginning() -> None:
    hub = EventHub()
    hub.publish("job", {"type": "started"})
    hub.publish("job", {"type": "done", "output": {}})
    assert [event["type"] for event in asyncio.run(collect(hub, "job", after=57))] == ["started", "done"]


def test_seed_is_for_those_of_whom_nothing_is_known() -> None:
    hub = EventHub()
    hub.seed("job", {"type": "done", "output": {}}, after=5)
    hub.seed("job", {"type": "queued", "position": 1})
    assert [(event["type"], event["seq"]) for event in asyncio.run(collect(hub, "job", after=5))] == [("done", 6)]


def test_only_the_newest_event_keeps_its_preview() -> None:
    hub = EventHub()
    for n in range(5):
        hub.publish("job", step(n, preview="x" * 1000))
    channel = hub._channels["job"]
    assert [("preview" in event) for event in channel.log] == [False, False, False, False, True]
    assert "preview" in hub.snapshot("job")[-1]


def test_log_is_bounded_and_drops_steps_before_images() -> None:
    hub = EventHub(log_limit=10)
    for n in range(8):
        hub.publish("job", {"type": "image", "path": f"{n}.png"})
    for n in range(1000):
        hub.publish("job", step(n))
    log = hub._channels["job"].log
    assert [event["type"] for event in log] == ["image"] * 8 + ["step"] * 2 and log[-1]["step"] == 999


def test_only_the_last_finished_jobs_are_remembered() -> None:
    hub = EventHub(keep_finished=3)
    for n in range(10):
        hub.publish(f"job {n}", {"type": "done", "output": {}})
    assert sorted(hub._channels) == ["job 7", "job 8", "job 9"] and hub.snapshot("job 1") == []


def test_nothing_comes_after_the_end() -> None:
    hub = EventHub()
    hub.publish("job", {"type": "cancelled", "output": {}})
    hub.publish("job", {"type": "done", "output": {}})
    assert [event["type"] for event in hub.snapshot("job")] == ["cancelled"]


def test_120_followers_cost_no_thread_and_leave_nothing_when_they_drop() -> None:
    hub = EventHub()
    before = threading.active_count()

    async def main() -> None:
        tasks = [asyncio.create_task(collect(hub, "job")) for _ in range(120)]
        hub.publish("job", {"type": "started"})
        while len(hub._channels["job"].followers) < 120:
            await asyncio.sleep(0)
        assert threading.active_count() == before
        for task in tasks[:100]:
            task.cancel()
        await asyncio.gather(*tasks[:100], return_exceptions=True)
        assert len(hub._channels["job"].followers) == 20
        hub.publish("job", {"type": "done", "output": {}})
        assert [len(events) for events in await asyncio.gather(*tasks[100:])] == [2] * 20

    asyncio.run(main())
    assert hub.watched() == set()


def test_follower_of_a_closed_loop_does_not_stop_the_others() -> None:
    hub = EventHub()
    loop = asyncio.new_event_loop()

    async def join() -> Any:
        following = hub.follow("job")
        hub.publish("job", {"type": "started"})
        await anext(following)
        return following

    following = loop.run_until_complete(join())
    loop.close()
    hub.publish("job", step(1))
    assert hub.watched() == set()
    del following


def test_closing_the_hub_ends_those_who_follow() -> None:
    hub = EventHub()

    async def main() -> list[Event]:
        following = asyncio.create_task(collect(hub, "job"))
        while not hub.watched():
            await asyncio.sleep(0)
        hub.close()
        return await following

    assert asyncio.run(main()) == []


def test_who_waits_for_the_end_alone_is_not_woken_before_it() -> None:
    hub = EventHub()

    async def woken(end_only: bool, last: str) -> tuple[bool, list[str]]:
        following = hub.follow("job", end_only=end_only)
        hub.publish("job", {"type": "started"})
        assert (await anext(following))["type"] == "started"
        next_one = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        for n in range(3):
            hub.publish("job", step(n))
        for _ in range(5):
            await asyncio.sleep(0)
        early = next_one.done()
        hub.publish("job", {"type": "done", "output": {}}) if last == "done" else hub.close()
        rest = [(await next_one)["type"]] + [event["type"] async for event in following]
        return early, rest

    assert asyncio.run(woken(True, "done")) == (False, ["step", "step", "step", "done"])
    hub = EventHub()
    assert asyncio.run(woken(False, "done"))[0]
    hub = EventHub()
    assert asyncio.run(woken(True, "close")) == (False, ["step", "step", "step"])
