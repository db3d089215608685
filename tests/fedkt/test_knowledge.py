from __future__ import annotations

import pytest
import torch

from fedkt.errors import KnowledgeError
from fedkt.knowledge import KINDS, SAMPLE_KINDS, Fused, Knowledge, Upload, Uploads
from fedkt.machine import empty
from fedkt.upload_check import Expected, check


def probabilities(rows: int = 3, classes: int = 4, seed: int = 0) -> Knowledge:
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return Knowledge.rows("probabilities", logits.softmax(-1), range(10, 10 + rows))


def expected_of(knowledge: Knowledge) -> Expected:
    shapes = {n: tuple(t.shape) for n, t in knowledge.tensors.items()}
    return Expected(knowledge.kind, knowledge.ids, shapes)


# --- construction --------------------------------------------------------------------------


def test_there_are_the_eight_kinds() -> None:
    assert set(KINDS) == {
        "logits",
        "probabilities",
        "labels",
        "class-logits",
        "prototypes",
        "features",
        "statistics",
        "weights",
    }


@pytest.mark.parametrize(
    ("kind", "tensors", "ids", "message"),
    [
        ("guesses", {"values": torch.zeros(1, 2)}, torch.arange(1), "unknown kind 'guesses'"),
        ("logits", {"values": torch.zeros(1, 2)}, None, "need ids"),
        ("logits", {"value": torch.zeros(1, 2)}, torch.arange(1), "one tensor called 'values'"),
        ("logits", {"values": torch.zeros(3, 2)}, torch.arange(2), "3 rows"),
        ("logits", {"values": torch.tensor(1.0)}, torch.arange(1), "0 rows"),
        ("logits", {"values": torch.zeros(2, 2)}, torch.tensor([0.0, 1.0]), "rows for ids"),
        ("logits", {"values": torch.zeros(2, 2)}, torch.tensor([[0, 1]]), "rows for ids"),
        ("labels", {"values": torch.zeros(2)}, torch.tensor([4, 4]), "an id occurs twice"),
        ("weights", {"w": torch.zeros(2)}, torch.arange(2), "take no ids"),
        ("statistics", {"mean": torch.zeros(2)}, torch.arange(2), "take no ids"),
    ],
)
def test_parts_that_do_not_fit_together(kind, tensors, ids, message) -> None:
    with pytest.raises(KnowledgeError, match=message):
        Knowledge(kind, tensors, ids)


def test_knowledge_is_immutable() -> None:
    source = {"values": torch.zeros(1, 2)}
    knowledge = Knowledge("logits", source, torch.arange(1))
    source["other"] = torch.zeros(1)
    assert set(knowledge.tensors) == {"values"}
    with pytest.raises(TypeError):
        knowledge.tensors["values"] = torch.ones(1, 2)
    with pytest.raises(AttributeError):
        knowledge.kind = "probabilities"


def test_ids_default_to_row_numbers() -> None:
    assert Knowledge.rows("logits", torch.zeros(3, 2)).ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("tensors", "bytes_"),
    [
        ({"values": torch.zeros(5, 3)}, 60),
        ({"values": torch.zeros(5, 3, dtype=torch.float16)}, 30),
        ({"values": torch.zeros(5, dtype=torch.int64)}, 40),
    ],
)
def test_num_bytes(tensors, bytes_) -> None:
    assert Knowledge("features", tensors, torch.arange(5)).num_bytes == bytes_


def test_num_bytes_adds_up_over_tensors() -> None:
    weights = Knowledge(
        "weights", {"a": torch.zeros(2, 3), "b": torch.zeros(7), "c": torch.ones(())}
    )
    assert weights.num_bytes == 4 * (6 + 7 + 1)


def test_with_tensors_keeps_all_but_the_content() -> None:
    counts = torch.tensor([3, 1])
    one = Knowledge("prototypes", {"values": torch.zeros(2, 3)}, torch.tensor([4, 9]), counts)
    other = one.with_tensors({"values": torch.ones(2, 5)})
    assert (other.kind, other.ids.tolist(), other.counts.tolist()) == ("prototypes", [4, 9], [3, 1])
    assert other.values.shape == (2, 5)


# --- rows by id ----------------------------------------------------------------------------


def test_at_looks_rows_up_by_id_in_any_shape() -> None:
    ids = torch.tensor([7, 0, 100, 3])
    values = torch.arange(8.0).view(4, 2)
    knowledge = Knowledge.rows("logits", values, ids)
    by_hand = {int(i): values[row] for row, i in enumerate(ids)}
    wanted = torch.tensor([[3, 7, 3], [100, 0, 7]])
    found = knowledge.at(wanted)
    assert found.shape == (2, 3, 2)
    for r in range(2):
        for c in range(3):
            assert torch.equal(found[r, c], by_hand[int(wanted[r, c])])


def test_at_runs_under_vmap() -> None:
    knowledge = probabilities(5)
    ids = torch.tensor([[10, 14], [11, 11], [12, 13]])
    assert torch.equal(torch.func.vmap(knowledge.at)(ids), knowledge.at(ids))


def test_at_of_knowledge_without_rows() -> None:
    empty = Knowledge.rows("logits", torch.zeros(0, 3))
    assert empty.at(torch.zeros(0, dtype=torch.int64)).shape == (0, 3)


def test_negative_ids_are_refused() -> None:
    with pytest.raises(KnowledgeError, match="id -5 is negative"):
        Knowledge.rows("logits", torch.zeros(2, 3), [-5, 1])


# --- the check on arrival -------------------------------------------------------------------


def test_a_good_upload_passes() -> None:
    good = probabilities()
    check(good, expected_of(good), 4)
    labels = Knowledge.rows("labels", torch.tensor([0, 3]))
    check(labels, expected_of(labels), 4)
    weights = Knowledge("weights", {"w": torch.zeros(2)})
    check(weights, expected_of(weights), 4)


def changed(values: torch.Tensor, where: tuple[int, int], value: float) -> Knowledge:
    values = values.clone()
    values[where] = value
    return Knowledge.rows("probabilities", values, range(10, 13))


GOOD = probabilities()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Knowledge.rows("logits", GOOD.values, GOOD.ids), "kind is logits, not probabilities"),
        (changed(GOOD.values, (1, 2), float("nan")), "values holds NaN or infinity"),
        (changed(GOOD.values, (1, 2), float("inf")), "values holds NaN or infinity"),
        (changed(GOOD.values, (1, 2), float("-inf")), "values holds NaN or infinity"),
        (changed(GOOD.values, (1, 2), 0.9), "not probabilities"),
        (probabilities(3, 5), r"shape \[3, 5\], not \[3, 4\]"),
        (probabilities(2, 4), r"shape \[2, 4\], not \[3, 4\]"),
        (Knowledge.rows("probabilities", GOOD.values, [10, 11, 13]), "ids differ"),
        (Knowledge.rows("probabilities", GOOD.values, [12, 11, 10]), "ids differ"),
    ],
)
def test_bad_uploads_are_named(bad: Knowledge, message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        check(bad, expected_of(GOOD), 4)


def test_a_row_may_sum_to_one_and_still_be_off_the_simplex() -> None:
    bad = Knowledge.rows("probabilities", torch.tensor([[1.4, -0.4, 0.0]]))
    with pytest.raises(KnowledgeError, match="not probabilities"):
        check(bad, expected_of(bad), 3)


def test_float16_rows_are_near_enough_to_the_simplex() -> None:
    rows = torch.full((2, 1000), 1e-3).half().float()
    knowledge = Knowledge.rows("probabilities", rows)
    assert float((rows.sum(-1) - 1).abs().max()) > 1e-6
    check(knowledge, expected_of(knowledge), 1000)


@pytest.mark.parametrize("labels", [[0, 4], [-1, 2]])
def test_labels_out_of_range(labels: list[int]) -> None:
    bad = Knowledge.rows("labels", torch.tensor(labels))
    with pytest.raises(KnowledgeError, match=r"not in \[0, 3\]"):
        check(bad, expected_of(bad), 4)


def test_missing_and_odd_tensors() -> None:
    asked = Expected("weights", None, {"a": (2,), "b": (1,)})
    with pytest.raises(KnowledgeError, match="differ from those asked for: b, c"):
        check(Knowledge("weights", {"a": torch.zeros(2), "c": torch.zeros(1)}), asked, 2)


def test_every_tensor_of_weights_is_looked_at() -> None:
    asked = Expected("weights", None, {"a": (2,), "b": (2,)})
    bad = Knowledge("weights", {"a": torch.zeros(2), "b": torch.tensor([0.0, float("nan")])})
    with pytest.raises(KnowledgeError, match="b holds NaN"):
        check(bad, asked, 2)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("labels", torch.tensor([0.5, 1.0])),
        ("logits", torch.zeros(2, 2, dtype=torch.complex64)),
        ("probabilities", torch.full((2, 2), 0.5, dtype=torch.complex64)),
        ("logits", torch.zeros(2, 2, dtype=torch.int64)),
        ("logits", torch.zeros(2, 2, dtype=torch.float64)),
    ],
)
def test_other_dtypes_than_the_documented_are_refused(kind, values) -> None:
    bad = Knowledge.rows(kind, values)
    with pytest.raises(KnowledgeError, match=r"values has dtype \w+, not (int64|float32)"):
        check(bad, expected_of(bad), 2)


# --- uploads -------------------------------------------------------------------------------


def uploads_of(*clients: int) -> Uploads:
    return Uploads([Upload(c, 10 * c, {"public": probabilities(seed=c)}) for c in clients])


def test_uploads_are_ordered_by_client_whatever_the_arrival() -> None:
    uploads = uploads_of(5, 1, 3)
    assert uploads.clients == (1, 3, 5)
    assert [u.client for u in uploads] == [1, 3, 5]
    assert uploads[0].client == 1
    assert len(uploads) == 3


def test_stacking() -> None:
    stack = uploads_of(5, 1)["public"]
    assert stack.clients == (1, 5)
    assert len(stack) == 2
    assert stack.num_examples.tolist() == [10.0, 50.0]
    assert stack.kind == "probabilities"
    assert stack.ids.tolist() == [10, 11, 12]
    assert torch.equal(stack.values[0], probabilities(seed=1).values)
    assert torch.equal(stack.values[1], probabilities(seed=5).values)


def test_stacking_weights_by_name() -> None:
    stack = Uploads(
        [
            Upload(c, 1, {"w": Knowledge("weights", {"a": torch.full((2,), float(c))})})
            for c in (2, 0)
        ]
    )["w"]
    assert stack.tensors["a"].tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert stack.ids is None


def test_a_share_that_is_not_there() -> None:
    with pytest.raises(KnowledgeError, match=r"Unknown share 'weights'\. Known: public"):
        uploads_of(1)["weights"]


def test_what_a_client_receives() -> None:
    shared, own = probabilities(seed=1), probabilities(seed=2)
    fused = Fused(shared={"a": shared, "b": shared}, personal={3: {"b": own}})
    assert fused.for_client(3)["a"] is shared
    assert fused.for_client(3)["b"] is own
    assert fused.for_client(4)["b"] is shared


def test_diagnostics_add_up() -> None:
    fused = Fused(diagnostics={"x": 1}).with_diagnostics(y=2)
    assert dict(fused.diagnostics) == {"x": 1, "y": 2}


def test_kinds_with_rows_need_ids() -> None:
    for kind in sorted(SAMPLE_KINDS):
        with pytest.raises(KnowledgeError, match="need ids and one tensor"):
            Knowledge(kind, {"values": torch.zeros(2, 2)})


def test_ids_are_looked_at_again_when_they_have_changed() -> None:
    ids = torch.arange(3)
    Knowledge.rows("logits", torch.zeros(3, 2), ids)
    ids[0] = 1
    with pytest.raises(KnowledgeError, match="twice"):
        Knowledge.rows("logits", torch.zeros(3, 2), ids)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_memory_is_aligned_as_torch_has_it(dtype) -> None:
    for shape in ((7,), (3, 5), (2, 0, 3), (1000, 33)):
        made = empty(shape, dtype)
        assert made.shape == torch.Size(shape)
        assert made.dtype == dtype
        assert made.is_contiguous()
        assert made.data_ptr() % 64 == 0
        assert bool((made.fill_(3) == 3).all())
