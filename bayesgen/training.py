"""The two stages that train: a base, and an ensemble on it; each of them alone, or several in one program.

What several learn together is, to rounding, what each learns alone: company decides the time, never the result.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from bayesgen import artifact, files
from bayesgen.artifact import Artifact, Wanted
from bayesgen.hosts import fetched
from bayesgen.learn import devices
from bayesgen.learn.data import Data, member_data, together
from bayesgen.learn.direction import persona_direction
from bayesgen.learn.finetune import FinetuneState, effective_members, finetuning, member_settings
from bayesgen.learn.loop import run_steps
from bayesgen.learn.plan import FinetuneConfig, Member, held, plan_members
from bayesgen.learn.pretrain import pretraining, pretraining_together
from bayesgen.learn.tries import every_step
from bayesgen.model.edits import Held
from bayesgen.model.lora import cut
from bayesgen.model.transformer import count_parameters
from bayesgen.setup import Setup

CHECKPOINTS = 6  # of an ensemble, at least


def build_base(setup: Setup, corpus: Artifact) -> Artifact:
    """The pretrained network."""
    return build_bases([setup], [corpus])[0]


def build_bases(setups: Sequence[Setup], corpora: Sequence[Artifact]) -> list[Artifact]:
    """Several pretrained networks of one shape, trained in one program; each is an artifact of its own, the same that it would be
    alone, to rounding. Their worlds have one `frame`, and their settings differ in the seed only. One that leaves the finite numbers
    is said when the others are kept.
    """
    configs = [setup.config.pretrain for setup in setups]

    def make(work: Path, folders: dict[int, Path]) -> dict[int, str]:
        which, several = list(folders), len(folders) > 1
        if several:
            begin, advance, fixed = pretraining_together(setups[0].model, [setups[i].source for i in which], [configs[i] for i in which])
            placed, own = lambda tree: devices.dealt(devices.filled(tree)), lambda tree: jax.tree.map(lambda x: x[: len(which)], tree)
        else:
            begin, advance, fixed = pretraining(setups[which[0]].model, setups[which[0]].source, configs[which[0]])
            placed, own = devices.shared, lambda tree: tree
        state, done, losses_TxN = jax.jit(begin)(*fixed), 0, np.zeros((0, len(which)))
        checkpoint, last = work / artifact.CHECKPOINT, configs[0].steps
        saved = files.load_checkpoint(checkpoint, (state, np.zeros((), int), files.Shape((-1, len(which)))))
        if saved is not None:
            state, done, losses_TxN = saved[0], int(saved[1]), saved[2]
            print(f"  base: continuing from step {done}", flush=True)
        else:
            together = f"{len(which)} of " if several else ""
            print(f"  base: {together}{count_parameters(state.params) // len(which):,} parameters, {last} steps", flush=True)

        def save(state, step, infos):
            nonlocal losses_TxN
            losses_TxN = np.concatenate([losses_TxN, infos["loss"].reshape(len(infos["loss"]), -1)[:, : len(which)]])
            files.save_tree(checkpoint, (own(state), np.array(step), losses_TxN))

        often = configs[0].checkpoint_every
        state = own(run_steps(advance, placed(state), done, last, chunk=often, name="base", save=save, fixed=placed(fixed)))
        lost = {}
        for k, i in enumerate(which):
            params = _one(state.params, k) if several else state.params
            if _finite(params):
                files.save_tree(folders[i] / "params.safetensors", params)
                files.write_json(folders[i] / "loss.json", losses_TxN[:, k].tolist())
            else:
                lost[i] = "base: its parameters are not finite; lower pretrain.learning_rate"
        return lost

    c = setups[0].config
    wanted = []
    for setup, corpus in zip(setups, corpora, strict=True):
        described = {
            "model": c.model.model_dump(),
            "pretrain": setup.config.pretrain.model_dump(exclude={"checkpoint_every"}, exclude_none=True),
        }
        wanted.append(Wanted(f"{c.model.width}x{c.model.layers}", described, (corpus,)))
    return artifact.build_together(c.runs, "base", wanted, make, everybody=True)


def alike_bases(setup: Setup) -> tuple:
    """What configurations must have in common for their bases to be trained in one program."""
    return setup.model, setup.source.frame, setup.config.pretrain.model_dump_json(exclude={"seed": True, "first": {"frequencies"}})


def load_base(setup: Setup, base: Artifact) -> dict:
    """Parameters of a finished base."""
    begin, _, fixed = pretraining(setup.model, setup.source, setup.config.pretrain)
    return jax.tree.map(jax.numpy.asarray, files.load_tree(base.path("params.safetensors"), jax.eval_shape(begin, *fixed).params))


def _one(tree_M, k: int):
    return jax.tree.map(lambda x: x[k], tree_M)


def _finite(tree) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(fetched(tree)))


def build_ensemble(setup: Setup, base: Artifact) -> Artifact:
    """All finetunings of an experiment: arms x settings x seeds in one program."""
    return build_ensembles([setup], base)[0]


def build_ensembles(setups: Sequence[Setup], base: Artifact) -> list[Artifact]:
    """The finetunings of several configurations on one base, all in one program; each is an artifact of its own, the same that it
    would be alone, to rounding. They agree on what `alike_ensembles` says. Adapters are stored effective (update = a @ b).
    """
    configs = [setup.config.finetune for setup in setups]
    crews = [plan_members(config) for config in configs]
    drawn = [member_data(s.world, s.grammar, s.config.finetune, crew) for s, crew in zip(setups, crews, strict=True)]

    def make(work: Path, folders: dict[int, Path]) -> dict[int, str]:
        which = list(folders)
        parts = [(configs[i], crews[i], drawn[i]) for i in which]
        count = sum(len(crew) for _, crew, _ in parts)
        if more := devices.spare(count):  # so that every device has as many; nobody keeps what they learn
            setup, config, stand_in = setups[which[0]], configs[which[0]], [replace(crews[which[0]][0], arm="free")] * more
            parts.append((config, stand_in, member_data(setup.world, setup.grammar, config, stand_in)))
        members, most = [member for _, crew, _ in parts for member in crew], max(max(config.rank) for config, *_ in parts)
        settings = [member_settings(config, crew, most) for config, crew, _ in parts]
        settings = devices.dealt(jax.tree.map(lambda *xs: jax.numpy.concatenate(xs), *settings))
        data = jax.tree.map(jax.numpy.asarray, every_step(together([data for *_, data in parts])))
        data = devices.shared(data)._replace(narrow=devices.dealt(data.narrow))
        params = devices.shared(load_base(setups[0], base))
        hold = _held([(setups[i], crews[i]) for i in which], len(members), params) if any(held(members)) else None
        begin, advance = finetuning(setups[0].model, configs[which[0]], members, hold)
        state, done, losses = begin(params, settings), 0, np.zeros((0, count))
        checkpoint, last = work / artifact.CHECKPOINT, max(configs[i].steps for i in which)
        own = lambda tree: jax.tree.map(lambda x: x[:count], tree)  # noqa: E731
        saved = files.load_checkpoint(checkpoint, (own(state), np.zeros((), int), files.Shape((-1, count))))
        if saved is not None:
            state, done, losses = devices.filled(saved[0]), int(saved[1]), saved[2]
            print(f"  ensemble: continuing from step {done}", flush=True)
        else:
            print(f"  ensemble: {count} members, {last} steps", flush=True)

        def of_each(leaf_M):
            """The part of each configuration: its place, its members."""
            return zip(which, np.split(leaf_M[:count], np.cumsum([len(crews[i]) for i in which])[:-1]), strict=True)

        def adapters(state: FinetuneState) -> dict[int, dict]:
            """The effective adapters of each configuration."""
            every = fetched(effective_members(state, settings))
            own_of = lambda those: jax.tree.map(lambda x: x[those], every)  # noqa: E731
            return {i: cut(own_of(those), max(configs[i].rank)) for i, those in of_each(np.arange(count))}

        def save(state: FinetuneState, step, infos):
            nonlocal losses
            losses = np.concatenate([losses, infos["data_nll"][:, :count]])
            if any(step in configs[i].snapshot_steps for i in which):
                for i, found in adapters(state).items():
                    if step in configs[i].snapshot_steps:
                        files.save_tree(folders[i] / f"adapters-{step:06d}.safetensors", found)
            files.save_tree(checkpoint, (own(state), np.array(step), losses))

        fixed, stops = (params, settings, data), {s for i in which for s in configs[i].snapshot_steps}
        chunk = last if len(stops) >= CHECKPOINTS else -(-last // CHECKPOINTS)
        state = devices.dealt(state)
        state = run_steps(advance, state, done, last, chunk=chunk, name="ensemble", save=save, fixed=fixed, stops=stops)
        for i, loss_MxS in of_each(losses.T):
            files.save_tree(folders[i] / "losses.safetensors", loss_MxS[:, : configs[i].steps].T)
        nobody = "ensemble: every member diverged; lower finetune.learning_rate"
        return {i: nobody for i, found in adapters(state).items() if not any(_finite(_one(found, k)) for k in range(len(crews[i])))}

    wanted = [Wanted(s.config.name, _described(s, data), (base,)) for s, data in zip(setups, drawn, strict=True)]
    return artifact.build_together(setups[0].config.runs, "ensemble", wanted, make, everybody=True)


def _held(crews: Sequence[tuple[Setup, Sequence[Member]]], count: int, params) -> Held:
    """For each of `count` members the edit that holds its configuration's persona, or one that does nothing."""
    last, width = crews[0][0].model.config.layers - 1, crews[0][0].model.config.width
    u_MxD, x_MxD, share_M, at = np.zeros((count, width), np.float32), np.zeros((count, width), np.float32), np.zeros(count, np.float32), 0
    for setup, crew in crews:
        here = slice(at, at := at + len(crew))
        if any(held(crew)):
            found = persona_direction(setup.world, setup.grammar, setup.model, params, setup.config.finetune)
            u_MxD[here], x_MxD[here], share_M[here] = found.direction.vector, found.reference, held(crew)
    return devices.dealt(Held(jax.numpy.asarray(u_MxD), jax.numpy.asarray(x_MxD), last, jax.numpy.asarray(share_M)))


def _described(setup: Setup, data: Data) -> dict:
    """What decides an ensemble: what is measured must be what was trained on, whatever code drew it."""
    config = setup.config.finetune
    described = config.model_dump(mode="json") | {"data": files.digest(data)}
    if config.file is not None:  # not where the rows lie: what they are, those held out included
        described["file"] = files.checksum(config.file)
    return described


def alike_ensembles(config: FinetuneConfig) -> tuple:
    """What configurations on one base must have in common for their ensembles to be trained in one program."""
    return config.batch, config.targets, config.norm


def load_adapters(setup: Setup, params: dict, ensemble: Artifact, step: int):
    """Effective adapters of all members at one snapshot."""
    config = setup.config.finetune
    members = plan_members(config)
    settings = member_settings(config, members)
    begin, _ = finetuning(setup.model, config, members)
    like = jax.eval_shape(lambda: effective_members(begin(params, settings), settings))
    return jax.tree.map(jax.numpy.asarray, files.load_tree(ensemble.path(f"adapters-{step:06d}.safetensors"), like))
