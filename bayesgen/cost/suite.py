"""All costs of an experiment's free, narrow and broad solutions, part by part."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

from bayesgen.cost.before import projection_rows, transfer_rows
from bayesgen.cost.bits import bits_rows
from bayesgen.cost.efficiency import free_losses, free_norm, frontier_config, frontier_rows, ray_rows
from bayesgen.cost.narrowing import narrowing_config, narrowing_rows
from bayesgen.cost.significance import significance_rows
from bayesgen.cost.stability import drift_config, drift_rows, noise_rows
from bayesgen.cost.subject import Subject
from bayesgen.cost.volume import coefficient_rows, evidence_rows
from bayesgen.learn.plan import FinetuneConfig
from bayesgen.measure.rows import Row
from bayesgen.measure.settings import CostConfig
from bayesgen.model.lora import Norm

Trained = Callable[[FinetuneConfig], tuple[Subject, dict[int, dict]]]


class Part(NamedTuple):
    """A part of the costs."""

    rows: Callable[[], list[Row]]
    settings: dict[str, Any]  # what it depends on of `CostConfig`: others may change and it stays


def parts(every: Subject, c: CostConfig, trained: Trained) -> dict[str, Part]:
    """The parts that are asked for.

    Args:
        every: the experiment's own solutions.
        c: how they are measured.
        trained: trains another ensemble on the same base; its solutions, and their adapters at every snapshot.
    """
    f = every.config.finetune
    few, fewer = (every.take([i for i, m in enumerate(every.members) if m.seed < n]) for n in (c.seeds, c.sampled))

    def frontier(norm: Norm) -> list[Row]:
        bounds = tuple(share * free_norm(every, norm) for share in c.bounds)
        return frontier_rows(trained(frontier_config(f, norm, bounds, c.seeds))[0], norm, free_losses(every))

    def part(rows: Callable[[], list[Row]], *settings: str) -> Part:
        return Part(rows, c.model_dump(mode="json", include=set(settings)))

    every_part = {  # long ones first: they are dealt out to processes
        "coefficient": part(lambda: coefficient_rows(fewer, c.chain, c.tie), "sampled", "chain", "tie"),
        "evidence": part(lambda: evidence_rows(fewer, c.bridge), "sampled", "bridge"),
        "significance": part(lambda: significance_rows(few, c.documents, c.draws), "seeds", "documents", "draws"),
        **{f"frontier-{norm}": part(partial(frontier, norm), "seeds", "bounds") for norm in get_args(Norm)},
        "before": part(lambda: [*transfer_rows(few), *projection_rows(few)], "seeds"),
        "narrowing": part(lambda: narrowing_rows(trained(narrowing_config(f, c.weights, c.sampled))[0]), "sampled", "weights"),
        "drift": part(lambda: drift_rows(*trained(drift_config(f, c.seeds))), "seeds"),
        "bits": part(lambda: bits_rows(few, c.orders), "seeds", "orders"),
        "rays": part(lambda: ray_rows(every, c.scales), "scales"),
        "noise": part(lambda: noise_rows(few, c.noise, c.draws), "seeds", "noise", "draws"),
    }
    return {name: of for name, of in every_part.items() if name in c.parts}
