"""What one dense sublayer brings back (q43), against numbers worked out by hand."""

import pytest

from tests.sql.warehouse_builder import Ask, Handmade


def rescued(*, isolated: bool = True) -> Handmade:
    """Build a variant of joint KLs 1 and 3 on two prompts; dense again, attn.0 leaves half and mlp.1 nothing."""
    warehouse = Handmade().model().variant("dense").variant("wanda-50", sparsity=0.5)
    for prompt, kl in (("p", 1.0), ("q", 3.0)):
        for step in range(2):
            warehouse.step("wanda-50", prompt, step, kl)
            top = {"scope": "propagated", "layer": 1, "sublayer": "mlp"}
            warehouse.transition("wanda-50", prompt, step, kl, flips=step == 1, **top)
            for layer, sublayer, left in ((0, "attn", 0.5), (1, "mlp", 0.0)):
                where = {"layer": layer, "sublayer": sublayer}
                flips = sublayer == "attn"
                warehouse.transition("wanda-50", prompt, step, left * kl, scope="restored", flips=flips, **where)
                if isolated:
                    warehouse.transition("wanda-50", prompt, step, 0.25, scope="isolated", **where)
    return warehouse


def test_a_rescue_is_the_kl_that_is_gone_as_a_mean_over_prompts(ask: Ask) -> None:
    first, second = ask(rescued(), "select * from q43_rescue")
    assert (first["sublayer"], first["rescue_rank"], second["rescue_rank"]) == ("mlp", 1, 2)
    assert first["rescued_nats"] == pytest.approx(2.0)
    assert first["kl_restored_nats"] == pytest.approx(0.0)
    assert first["rescued_share"] == pytest.approx(1.0)
    assert second["rescued_nats"] == pytest.approx(1.0)
    # Two prompts, rescued by 0.5 and 1.5: Student's t of one degree of freedom.
    assert second["rescued_high"] - 1.0 == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert first["interaction_nats"] == pytest.approx(1.75)
    # Step 1 of each prompt is right again; attn.0 loses step 0 of both and rescues none.
    assert (first["tokens_back"], second["tokens_back"]) == (pytest.approx(0.5), pytest.approx(-0.5))


def test_without_isolated_effects_there_is_no_interaction(ask: Ask) -> None:
    rows = ask(rescued(isolated=False), "select * from q43_rescue")
    assert [row["rescued_nats"] for row in rows] == [pytest.approx(2.0), pytest.approx(1.0)]
    assert all(row["kl_isolated_nats"] is row["interaction_nats"] is None for row in rows)
