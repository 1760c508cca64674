"""Whose turn it is in llama.cpp: adapter after adapter, nobody for ever."""

from grokora_pipeline.models.chat import text_settings
from grokora_pipeline.serving.backends.llamacpp import _token_bytes
from grokora_pipeline.serving.backends.slots import MAX_OVERTAKEN, SlotQueue, SlotTurn


def join(queue: SlotQueue, adapter: str | None, tokens: list[int] | None = None, cells: int = 10) -> SlotTurn:
    turn = SlotTurn(adapter, tokens or [1, 2, 3], cells)
    queue.join(turn)
    return turn


def test_only_turns_of_one_adapter_run_together_and_the_oldest_decides_which_is_next() -> None:
    queue = SlotQueue(slots=3, cells=1000)
    first, other, same = (join(queue, adapter) for adapter in ("a", "b", "a"))
    assert [turn.slot.done() for turn in (first, other, same)] == [True, False, True]
    assert first.slot.result() != same.slot.result()
    queue.leave(first)
    assert (other.slot.done(), queue.running, queue.waiting) == (False, 1, 1)
    queue.leave(same)
    assert other.slot.done()


def test_an_adapter_that_is_asked_for_all_the_time_lets_others_have_their_turn() -> None:
    queue = SlotQueue(slots=2, cells=1000)
    running, waiting, admitted = [join(queue, "busy"), join(queue, "busy")], join(queue, "other"), 0
    while not waiting.slot.done():
        queue.leave(running.pop(0))
        running.append(join(queue, "busy"))
        if not running[-1].slot.done():
            running = running[:-1]
        else:
            admitted += 1
    assert admitted == MAX_OVERTAKEN
    assert not running


def test_turns_share_the_cache_and_one_that_finds_no_room_is_not_passed_for_ever() -> None:
    queue = SlotQueue(slots=8, cells=100)
    running = join(queue, "a", cells=60)
    large = join(queue, "a", cells=90)
    small = [join(queue, "a", cells=1) for _ in range(MAX_OVERTAKEN + 5)]
    for turn in small:
        if turn.slot.done():
            queue.leave(turn)
    assert sum(turn.slot.done() for turn in small) == MAX_OVERTAKEN
    assert not large.slot.done()
    for turn in small:
        queue.leave(turn)
    queue.leave(running)
    assert large.slot.done()


def test_a_turn_gets_the_slot_that_holds_its_beginning_under_its_own_adapter() -> None:
    queue = SlotQueue(slots=3, cells=1000)
    kept = [join(queue, "a", [1, 2, 3, 4]), join(queue, "a", [5, 6, 7, 8])]
    slots = [turn.slot.result() for turn in kept]
    for turn in kept:
        queue.leave(turn)
    assert join(queue, "a", [5, 6, 7, 8, 9]).slot.result() == slots[1]
    assert join(queue, "a", [1, 9, 9]).slot.result() not in slots  # it would lose more than it saves
    fresh = SlotQueue(slots=2, cells=1000)
    turn = join(fresh, "a", [1, 2, 3])
    fresh.leave(turn)
    assert join(fresh, "b", [1, 2, 3, 4]).slot.result() != turn.slot.result()


def test_whoever_leaves_while_waiting_is_never_admitted() -> None:
    queue = SlotQueue(slots=1, cells=100)
    running, gone, next_one = (join(queue, "a") for _ in range(3))
    gone.slot.cancel()
    queue.leave(running)
    assert next_one.slot.done()
    queue.leave(gone)
    assert (queue.running, queue.waiting) == (1, 0)


def test_the_cache_of_a_base_that_reads_pictures_is_measured_by_its_text_model() -> None:
    text = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64, "num_hidden_layers": 3}
    keys_and_values = 2 * 2 * 8  # of two heads that are eight numbers wide
    assert _token_bytes(text_settings({"hidden_size": 9, "text_config": text})) == 2 * 3 * keys_and_values
