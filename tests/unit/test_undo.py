"""The edge cases that `unsay.undo` states in prose, one by one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from unsay.errors import UndoError
from unsay.records import Counts, Row
from unsay.undo import (
    EMPTY,
    Action,
    UndoStack,
    UndoTable,
    check_row,
    loss_weights,
    replay,
    resolve,
    resolve_chat,
    resolve_many,
    resolve_messages,
    status,
)

U, UU, L, ALL, END, NL = 100, 101, 102, 103, 104, 9
TABLE = UndoTable(
    {U: Action("pop"), UU: Action("pop", 2), L: Action("pop_line"), ALL: Action("pop_all")},
    {U: "<|BACKTRACK|>", UU: "<|BACKTRACK_2|>", L: "<|BACKTRACK_LINE|>", ALL: "<|RESET|>"},
    frozenset({NL}),
)
EOS = frozenset({END})


@pytest.mark.parametrize(
    ("trace", "visible"),
    [
        ([], []),
        ([1, 2, 3], [1, 2, 3]),
        ([1, U, 2], [2]),
        ([1, 2, U, 3], [1, 3]),
        ([1, 2, U], [1]),  # undo last
        ([U, 1], [1]),  # undo at the start
        ([1, 2, U, U, U, 3], [3]),  # more undos than tokens
        ([1, 2, U, 3, U, U, 4], [4]),  # an undo is never undone: it pops survivors only
        ([1, 2, 3, UU], [1]),
        ([1, UU, 2], [2]),  # fewer survivors than the count
        ([1, 2, ALL, 3], [3]),
        ([1, 2, END, U, 3], [1, 2]),  # whatever follows the end token is dropped
        ([1, END, 2, END], [1]),
        ([END], []),
        ([1, 2, NL, 3, 4, L], [1, 2, NL]),  # back to the last line break, which stays
        ([1, 2, NL, L], []),  # a final line break belongs to the line it ends
        ([1, NL, 2, NL, L], [1, NL]),
        ([1, NL, NL, L], [1, NL]),  # an empty line is a line
        ([1, 2, L, 3], [3]),  # the first line has no line break before it
        ([1, NL, 2, L, L], []),
        ([NL, L, L, 1], [1]),
    ],
)
def test_what_survives(trace: list[int], visible: list[int]) -> None:
    assert list(resolve(trace, TABLE, EOS).visible_ids) == visible


def test_the_three_traces_on_which_published_resolvers_disagree() -> None:
    a, b = 1, 2
    assert resolve([U, a], TABLE).visible_ids == (a,)
    assert resolve([a, b, U], TABLE).visible_ids == (a,)
    assert resolve([a, U, U, b], TABLE).visible_ids == (b,)


def test_counts() -> None:
    resolution = resolve([1, 2, NL, 3, 4, L, U, 5, UU, UU, UU, 6, END, 7], TABLE, EOS)
    assert resolution.visible_ids == (6,)
    assert resolution.positions == (11,)
    assert resolution.ended
    assert resolution.counts == Counts(
        sampled=13,  # the end token counts, what follows it does not
        survivors=2,  # 6 and the end token
        popped=6,
        undos=4,
        underflows=1,
        episodes=2,
        run_lengths=(2, 3),
        depths=(2, 0),
        first_undo=5,
    )


def test_a_trace_cut_in_an_episode_still_has_that_episode() -> None:
    counts = resolve([1, 2, 3, U], TABLE, EOS).counts
    assert (counts.episodes, counts.run_lengths, counts.depths) == (1, (1,), (2,))


def test_an_underflow_is_counted_and_does_nothing() -> None:
    for control in (U, UU, L, ALL):
        resolution = resolve([control, 1], TABLE)
        assert resolution.visible_ids == (1,)
        assert (resolution.counts.undos, resolution.counts.underflows, resolution.counts.popped) == (0, 1, 0)


def test_without_an_end_token_nothing_ends() -> None:
    resolution = resolve([1, END, 2], TABLE)
    assert not resolution.ended
    assert resolution.visible_ids == (1, END, 2)


def test_replay_tells_what_each_id_did() -> None:
    steps = list(replay([1, 2, 3, UU, U, U, 4, END, 5], TABLE, EOS))
    assert [(step.kind, step.popped, step.depth) for step in steps] == [
        ("emit", (), 1),
        ("emit", (), 2),
        ("emit", (), 3),
        ("undo", (2, 1), 1),
        ("undo", (0,), 0),
        ("underflow", (), 0),
        ("emit", (), 1),
        ("end", (), 1),
    ]
    assert [(step.index, step.id) for step in steps] == list(enumerate([1, 2, 3, UU, U, U, 4, END]))


def test_status_strikes_what_was_taken_back_the_controls_and_what_follows_the_end() -> None:
    assert status([1, 2, U, 3, END, 4], TABLE, EOS) == [True, False, False, True, True, False]
    assert status([], TABLE, EOS) == []


def test_the_stack_says_beforehand_what_an_id_would_take() -> None:
    stack = UndoStack(TABLE)
    for id in (1, NL, 2, 3):
        assert stack.pops(id) == 0
        assert stack.push(id) == 0
    assert [stack.pops(id) for id in (U, UU, L, ALL)] == [1, 2, 2, 4]
    assert stack.push(L) == 2
    assert (stack.survivors, stack.positions, len(stack)) == ([1, NL], [0, 1], 2)


def test_an_end_token_that_is_a_control_token_is_refused() -> None:
    for function in (resolve, lambda *args: list(replay(*args)), status):
        with pytest.raises(UndoError, match="end tokens and control tokens"):
            function([1], TABLE, {U})


class TestTable:
    def test_round_trip(self) -> None:
        again = UndoTable.from_json(json.loads(json.dumps(TABLE.to_json())))
        assert again == TABLE
        assert again.sha256() == TABLE.sha256()
        assert hash(again) == hash(TABLE)
        assert pickle.loads(pickle.dumps(TABLE)) == TABLE

    def test_the_hash_covers_everything(self) -> None:
        others = [
            EMPTY,
            UndoTable(TABLE.actions, TABLE.names, frozenset({8})),
            UndoTable(TABLE.actions, {**TABLE.names, U: "<undo>"}, TABLE.newline_ids),
            UndoTable({**TABLE.actions, UU: Action("pop", 3)}, TABLE.names, TABLE.newline_ids),
        ]
        assert len({TABLE.sha256(), *(other.sha256() for other in others)}) == 5

    def test_the_order_of_entries_does_not_matter(self) -> None:
        backwards = UndoTable(dict(reversed(TABLE.actions.items())), TABLE.names, TABLE.newline_ids)
        assert backwards.sha256() == TABLE.sha256()

    def test_it_keeps_its_own_copy(self) -> None:
        actions = {U: Action("pop")}
        table = UndoTable(actions, {U: "<undo>"})
        actions[7] = Action("pop_all")
        assert not table.is_control(7)

    def test_find_a_control(self) -> None:
        assert TABLE.control("pop") == U
        assert TABLE.control("pop", 2) == UU
        assert TABLE.control("pop", 3) is None
        assert TABLE.control("pop_line") == L
        assert TABLE.control("pop_all") == ALL

    def test_the_empty_table(self) -> None:
        assert not EMPTY
        assert TABLE
        assert resolve([1, U, 2], EMPTY).visible_ids == (1, U, 2)

    @pytest.mark.parametrize(("kind", "count"), [("pop", 0), ("pop", -1), ("pop_line", 2), ("pop_all", 2), ("redo", 1)])
    def test_actions_that_make_no_sense(self, kind: str, count: int) -> None:
        with pytest.raises(UndoError):
            Action(kind, count)  # type: ignore[arg-type]

    def test_tables_that_make_no_sense(self) -> None:
        with pytest.raises(UndoError, match="one token string per control"):
            UndoTable({U: Action("pop")}, {})
        with pytest.raises(UndoError, match="ordinary tokens"):
            UndoTable({U: Action("pop")}, {U: "<undo>"}, frozenset({U}))

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {**TABLE.to_json(), "schema": 99},
            {"schema": 1, "newline_ids": []},
            {"schema": 1, "controls": [{"id": 1}], "newline_ids": []},
            {"schema": 1, "controls": None, "newline_ids": []},
        ],
    )
    def test_a_broken_file_is_refused_with_what_to_do(self, value: dict[str, object]) -> None:
        with pytest.raises(UndoError, match="expected an undo table"):
            UndoTable.from_json(value)


class TestLossWeights:
    def test_masks(self) -> None:
        assert loss_weights("ceuk", "errors") == [1.0, 0.0, 1.0, 1.0]
        assert loss_weights("ceuk", "none") == [1.0] * 4
        assert loss_weights("", "errors") == []

    def test_repeated_undos_weigh_as_much_as_one_token_together(self) -> None:
        # Two runs: of three undos and of one.
        assert loss_weights("ceeeuuukeuk", "repeats") == [1, 0, 0, 0, 1, 0.5, 0.5, 1, 0, 1, 1]
        assert loss_weights("ceuuk", "repeats") == loss_weights("ceuuk", "errors")

    def test_nothing_before_the_first_undo(self) -> None:
        assert loss_weights("cceukceuuk", "before_undo") == [0, 0, 0, 1, 1, 1, 0, 1, 1, 1]
        assert loss_weights("ccc", "before_undo") == [1, 1, 1]
        assert loss_weights("ce", "before_undo") == [1, 0]

    def test_a_nested_trace_that_counting_undos_gets_wrong(self) -> None:
        # A B C U D U U B': counting back from the last run masks C D, although it takes back B and D.
        ids = [1, 2, 3, U, 4, U, U, 5]
        assert status(ids, TABLE) == [True, False, False, False, False, False, False, True]
        assert loss_weights("ceeueuuk", "errors") == [1, 0, 0, 1, 0, 1, 1, 1]

    def test_unknown_letters_and_masks(self) -> None:
        with pytest.raises(UndoError, match="letters"):
            loss_weights("cx", "errors")
        with pytest.raises(UndoError, match="mask"):
            loss_weights("c", "all")  # type: ignore[arg-type]


class TestCheckRow:
    CLEAN = (1, 2, NL, 3, 4)

    def check(self, ids: list[int], provenance: str, prompt: tuple[int, ...] = (50,)) -> None:
        check_row(Row("train-7", prompt, tuple(ids), provenance), self.CLEAN, TABLE, EOS)

    @pytest.mark.parametrize(
        ("ids", "provenance"),
        [
            ([1, 2, NL, 3, 4, END], "cccccc"),
            ([1, 8, U, 2, NL, 3, 4, END], "ceukcccc"),
            ([8, U, 1, 2, NL, 3, 4, END], "eukccccc"),
            ([1, 2, NL, 3, 4, 8, U, END], "ccccceuk"),  # the end token is the correction
            ([1, 2, NL, 3, 5, L, 3, 4, END], "ccceeukkc"),  # a wrong line that begins like the right one
            ([1, 2, 9, 8, 8, ALL, 1, 2, NL, 3, 4, END], "eeeeeukkkkkc"),
            ([1, 8, 7, U, 7, U, U, 2, NL, 3, 4, END], "ceeueuukcccc"),  # a second try below an earlier mistake
        ],
    )
    def test_rows_to_train_on(self, ids: list[int], provenance: str) -> None:
        self.check(ids, provenance)

    @pytest.mark.parametrize(
        ("ids", "provenance", "reason"),
        [
            ([1, 2, NL, 3, 4, END], "ccccc", "one provenance letter per token"),
            ([1, 2, NL, 3, 4], "ccccc", "one end token"),
            ([1, 2, END, NL, 3, 4, END], "ccccccc", "one end token"),
            ([], "", "one end token"),
            ([U, 1, 2, NL, 3, 4, END], "ukccccc", "nothing left to take"),
            ([1, 2, NL, 3, END], "ccccc", "to resolve to the 5 tokens of the clean answer, got 4 tokens"),
            ([1, 8, NL, 3, 4, END], "cccccc", "id 8 instead of 2 at place 1"),
            ([1, 8, U, 2, NL, 3, 4, END], "ccukcccc", "expected provenance e for token 1"),
            ([1, 8, U, 2, NL, 3, 4, END], "ceeccccc", "expected provenance u for token 2"),
            ([1, 8, U, 2, NL, 3, 4, END], "ceuecccc", "expected provenance c or k for token 3"),
            ([1, 2, U, 2, NL, 3, 4, END], "ceukcccc", "to differ from the right one"),
            ([1, 2, 8, U, U, 2, NL, 3, 4, END], "ceeuukcccc", "to differ from the right one"),
            ([1, 2, NL, 3, 4, L, 3, 4, END], "ccceeukkc", "to differ from the right one"),
            ([1, 2, NL, 3, L, 3, 4, END], "ccceukkc", "to differ from the right one"),
        ],
    )
    def test_rows_refused(self, ids: list[int], provenance: str, reason: str) -> None:
        with pytest.raises(UndoError, match=f"^row train-7: .*{reason}"):
            self.check(ids, provenance)

    def test_a_control_token_in_the_prompt_is_refused(self) -> None:
        with pytest.raises(UndoError, match=r"no control token in the prompt, got '<\|BACKTRACK\|>'"):
            self.check([1, 2, NL, 3, 4, END], "cccccc", prompt=(50, U))

    def test_a_control_token_with_id_0_counts_as_well(self) -> None:
        table = UndoTable({0: Action("pop")}, {0: "<undo>"})
        with pytest.raises(UndoError, match="no control token in the gold answer"):
            check_row(Row("a", (), (0, END), "uc"), (0,), table, EOS)


class TestChats:
    user = (50, 51)

    def test_each_assistant_message_is_resolved_by_itself(self) -> None:
        stream = [*self.user, 1, 2, U, END, *self.user, U, U, 3, 4, UU, 5, END, 60, *self.user]
        chat = resolve_chat(stream, [(2, 6), (8, 16)], TABLE, EOS)
        assert chat.history_ids == (*self.user, 1, END, *self.user, 5, END, *self.user)
        assert [message.visible_ids for message in chat.messages] == [(1,), (5,)]
        # The second message's undos found nothing of the first one within reach.
        assert chat.messages[1].counts.underflows == 2

    def test_an_undo_of_everything_stays_inside_its_message(self) -> None:
        chat = resolve_chat([1, END, 50, 2, 3, ALL, 4], [(0, 2), (3, 7)], TABLE, EOS)
        assert chat.history_ids == (1, END, 50, 4)

    def test_without_messages_the_history_is_the_prompt(self) -> None:
        assert resolve_chat([1, 2], [], TABLE, EOS).history_ids == (1, 2)
        assert resolve_chat([], [(0, 0)], TABLE, EOS).messages == (resolve([], TABLE, EOS),)

    def test_messages_given_by_themselves(self) -> None:
        assert [each.visible_ids for each in resolve_messages([[1, 2, U], [U, 3]], TABLE, EOS)] == [(1,), (3,)]

    def test_a_control_token_of_the_user_is_refused_by_name_and_place(self) -> None:
        with pytest.raises(UndoError, match=r"got '<\|RESET\|>' at place 3 of the chat; encode user text"):
            resolve_chat([50, 1, END, ALL], [(1, 3)], TABLE, EOS)

    @pytest.mark.parametrize("spans", [[(1, 3), (2, 4)], [(3, 2)], [(0, 9)], [(-1, 2)], [(2, 3), (0, 1)]])
    def test_spans_that_are_none(self, spans: list[tuple[int, int]]) -> None:
        with pytest.raises(UndoError, match="spans of a chat of 5 tokens in order"):
            resolve_chat([1, 2, 3, 4, 5], spans, TABLE, EOS)


class TestMany:
    def test_an_element_is_what_resolve_returns(self) -> None:
        traces = [[1, 2, U, 3, END, U, 4], [], [END], [U, L, ALL], [1, NL, 2, 3, L, U, UU, 5]]
        many = resolve_many(traces, TABLE, EOS)
        assert list(many) == [resolve(trace, TABLE, EOS) for trace in traces]
        assert many[-1] == many[4]
        assert many[1:3] == [many[1], many[2]]
        with pytest.raises(IndexError):
            many[5]

    def test_nothing_to_resolve(self) -> None:
        assert list(resolve_many([], TABLE, EOS)) == []
        assert list(resolve_many([[], []], TABLE, EOS)) == [resolve([], TABLE, EOS)] * 2

    def test_long_traces_and_large_counts_do_not_overflow(self) -> None:
        table = UndoTable({U: Action("pop", 10**12), ALL: Action("pop_all")}, {U: "<pop>", ALL: "<all>"})
        traces = [[1] * 300_000 + [ALL] + [U] * 300_000 + [2], [ALL] * 300_000 + [3], [4, U, 5]]
        many = resolve_many(traces, table)
        assert many[0] == resolve(traces[0], table)
        assert many[1].counts.underflows == 300_000
        assert [each.visible_ids for each in many] == [(2,), (3,), (5,)]

    def test_an_end_token_that_is_a_control_token_is_refused(self) -> None:
        with pytest.raises(UndoError, match="end tokens and control tokens to differ"):
            resolve_many([[1]], TABLE, {U})

    def test_the_benchmark_runs(self) -> None:
        file = Path(__file__).parents[2] / "benchmarks" / "resolve.py"
        command = [sys.executable, str(file), "--traces", "60", "--rounds", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("every resolution equal") == 2
