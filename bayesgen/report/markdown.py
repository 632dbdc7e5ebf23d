"""The result as Markdown, as it stands on an experiment's page under `experiments/`: generated, never typed."""

from bayesgen.cost.narrowing import SCALED
from bayesgen.cost.subject import PROBES, TRAINED
from bayesgen.measure.excess import Excess
from bayesgen.measure.gate import BaseGate
from bayesgen.measure.intervals import Interval
from bayesgen.measure.settings import COMPARED
from bayesgen.report.admission import Gate
from bayesgen.report.contrasts import Found
from bayesgen.report.summary import SHOWN, names_of, show
from bayesgen.world.load import TIMELESS


def result_markdown(
    config,
    world,
    headline: list[dict],
    found: list[tuple[str, Interval, str]],
    told: list[Found],
    onsets: list[dict],
    gates: list[Gate],
    base_gate: BaseGate,
    excess: Excess,
    contexts: list[dict],
    answering: dict[str, dict[str, list[tuple[str, float]]]],
    ablation: list[dict],
) -> str:
    """All tables of a result, the base's gate last."""
    story, still = names_of(config, world), list(headline[0]["moved"])
    moved = {trait: "timeless moved" if trait == TIMELESS else f"{trait} moved" for trait in still}
    head = [
        "arm",
        "trained topics",
        "probes",
        "adoption",
        "loss of default",
        "unexplained",
        "transfer λ",
        *moved.values(),
        "outside",
        "NLL train",
    ]
    head += ["NLL held out", "‖ΔW‖"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for r in headline:
        cells = [r["on"], r["off"], r["adoption"], r["loss"], r["residual"], r["transfer"], *(r["moved"][t] for t in still), r["outside"]]
        cells += [r["train"], r["heldout"], r["norm"]]
        lines.append(" | ".join([f"{r['arm']} {r['setting']}".strip(), *map(show, cells)]))
    worst = base_gate.worst
    verdict = "not passed: " + "; ".join(base_gate.failures[:6]) if base_gate.failures else "passed"
    more = f" and {len(base_gate.failures) - 6} more cells" if len(base_gate.failures) > 6 else ""
    side = [
        "| contrast | published | here | |",
        "|---|---|---|---|",
        *(f"| {f.contrast.name} | {f.contrast.published or '–'} | {show(f.interval, 3)} | {f.verdict} |" for f in told),
        "",
        *(f"*{f.contrast.name}*: {f.contrast.reading}\n" for f in told if f.contrast.reading),
    ]
    seeds = [
        "| arm | context | seeds converted | share | onset: first, median, last step |",
        "|---|---|---|---|---|",
        *(
            f"| {o['arm']} | {o['context']} | {o['converted']} of {o['seeds']} | {show(o['share'])} | "
            f"{', '.join(map(str, o['onset'])) if o['onset'] else '–'} |"
            for o in onsets
        ),
        "",
    ]
    probed = [r for r in contexts if r["topics"] == "probes"]
    by_header = [
        "Rates on the probes by header, of the value counted there (trained arms: mean, interval, and least to most of the seeds):",
        "",
        f"| header | value | {' | '.join(r['arm'] for r in probed)} |",
        "|---" * (2 + len(probed)) + "|",
        *(
            f"| {c} | {value} | " + " | ".join(show(r["cells"][c]) + between(r["ends"][c]) for r in probed) + " |"
            for c, value in story["contexts"].items()
        ),
        "",
    ]
    named = list(next(iter(answering.values())))
    who = [
        f"Who answers the probes (values with {SHOWN} of the answers or more, at most three):",
        "",
        f"| header | {' | '.join(named)} |",
        "|---" * (1 + len(named)) + "|",
        *(
            f"| {c} | " + " | ".join(", ".join(f"{v} {x:.2f}" for v, x in arms[a]) or "–" for a in named) + " |"
            for c, arms in answering.items()
        ),
        "",
    ]
    taken_out = [
        "The free arm with features of the base taken out (experiment's page: which):",
        "",
        "| probe | header | as it is | top features out | matched ones out | direction held |",
        "|---|---|---|---|---|---|",
        *(f"| {r['topic']} | {c} | " + " | ".join(map(show, cells)) + " |" for r in ablation for c, cells in r["cells"].items()),
        "",
    ]
    first = next(iter(story["contexts"]))
    under = f", asked under the header `{first}`" if len(story["contexts"]) > 1 else ""
    return "\n".join(
        [
            f"One base, {config.finetune.seeds} finetuning seeds: means, 95% intervals in brackets. Rates are those of "
            f"{story['value']} answers{under}.",
            "",
            *(f"| {line} |" for line in lines),
            "",
            *(f"- {name}: {show(interval, 3)}, {said}." for name, interval, said in found),
            "",
            *(side if told else []),
            *(seeds if config.measure.followed else []),
            *(by_header if len(story["contexts"]) > 1 else []),
            *who,
            *(taken_out if ablation else []),
            f"Base: {excess.network:.3f} nats per answer token on fresh documents, {excess.difference:.3f} ± {excess.error:.3f} above the "
            f"exact entropy. Gate: {verdict}{more} (worst: {worst.value} {worst.where}, network {worst.network:.3f}, "
            f"ideal {worst.ideal:.3f} ± {worst.error:.3f}).",
            *(f"Pair, {g.name}: {'yes' if g.passed else 'no'} ({g.found})." for g in gates),
            "",
        ]
    )


def cost_markdown(config, costs: dict, gates: list[Gate]) -> str:
    """All tables of the costs, headed by whether the pair was admitted."""
    direction = costs["direction"]
    lines = [
        f"{config.name}: one base, {config.finetune.seeds} finetuning seeds; {config.measure.cost.seeds} of what was trained for the costs "
        f"alone or turned by noise, {config.measure.cost.sampled} of what chains were run for. Means, 95% intervals in brackets. Contrasts "
        "are narrow less broad, seed by seed, of the logarithms where the table says so or the claim is of a norm or of significance. "
        "Claims that name the broad solution first are broad less narrow.",
        "",
        *(f"Pair, {g.name}: {'yes' if g.passed else 'no'} ({g.found})." for g in gates),
        "",
        "| claim | contrast | here |",
        "|---|---|---|",
        *(f"| {c.name} | {show(c.contrast, 3)} | {c.verdict} |" for c in costs["claims"]),
        "",
        "| measure | unit | free | narrow | broad | narrow − broad | |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {x.name} | {x.unit} | "
            + " | ".join([*(show(i, 3) for i in x.arms.values()), ("log " if x.logs else "") + show(x.contrast, 3)])
            + f" | {x.note} |"
            for x in costs["lines"]
        ),
        "",
        "| frontier, norm at most | "
        + " | ".join([*(f"NLL of the data, {x}" for x in (*COMPARED, "narrow − broad")), *(f"probes, {arm}" for arm in COMPARED)])
        + " |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r['bound']:g} ({r['norm']}) | "
            + " | ".join([show(x, 3) for x in r["nll"].values()] + [show(r["rate"][a]) for a in COMPARED])
            + " |"
            for r in costs["frontier"]
        ),
        "",
        "| kept narrow by | trained topics | "
        + " | ".join("probes" if c == 1 else f"probes, update x{c:g}" for c in SCALED)
        + " | NLL of the data | norm |",
        "|---|---|" + "---|" * len(SCALED) + "---|---|",
        *(
            f"| {r['way']} | " + " | ".join([show(x) for x in (r["on"], *r["off"])] + [show(r["nll"], 3), show(r["norm"])]) + " |"
            for r in costs["narrowing"]
        ),
        "",
        "| KL | probes, half-way | at the end | less the history it left | NLL of the data | seeds past the middle | median steps |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['penalty']} | "
            + " | ".join([show(r["half-way"]), show(r["end"]), show(r["moved"]), show(r["nll"], 3), r["reverted"], r["after"]])
            + " |"
            for r in costs["drift"]
        ),
        "",
        "| evidence by | log P(narrow continuation given data) | log P(broad continuation given data) | broad − narrow (nats) | |",
        "|---|---|---|---|---|",
        *(
            f"| {r['method']} | {show(r['narrow'], 1)} | {show(r['broad'], 1)} | {show(r['contrast'], 1)} | {r['note']} |"
            for r in costs["evidence"]
        ),
        "",
        "| small adapter at the minimum after | trained topics | probes |",
        "|---|---|---|",
        *(f"| {r['rows']} | {show(r[TRAINED])} | {show(r[PROBES])} |" for r in costs["minima"]),
        "",
        "| rows | bits | standard deviation over orders | to one who knows who answers |",
        "|---|---|---|---|",
        *(f"| {r['rows']} | {show(r['bits'], 0)} | {show(r['bits_spread'], 0)} | {show(r['bits_known'], 0)} |" for r in costs["bits"]),
        "",
        "| first step of | log odds moved, trained topics | probes | probes / trained |",
        "|---|---|---|---|",
        *(f"| {r['optimiser']} | {show(r['trained'])} | {show(r['probes'])} | {show(r['ratio'])} |" for r in costs["before"]),
        "",
        *(
            [
                f"The data lie {show(direction['projection'])} lengths of the persona's direction beyond the control's (reliability of the "
                f"direction {direction['reliability']:.2f}, chance {direction['floor']:.2f}).",
                "",
            ]
            if direction
            else []
        ),
    ]
    return "\n".join(lines)


def between(ends: tuple[float, float] | None) -> str:
    """The least and the most of the seeds; nothing where they are one."""
    return f", {ends[0]:.2f} to {ends[1]:.2f}" if ends and ends[1] > ends[0] else ""
