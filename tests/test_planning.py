"""What is computed together: as few programs as processes and memory ask for."""

from hypothesis import given
from hypothesis import strategies as st

from bayesgen.planning import CELLS, cgroup_limits, make_plan, split
from tests.test_sweep import raw


def test_the_plan_has_a_program_for_every_process_and_splits_by_what_cannot_be_shared(tmp_path):
    some = [raw(tmp_path, rank=r, batch=b) for b in (1, 3) for r in (1, 2, 4, 8)]
    plan = make_plan(dict(enumerate(some)), 2)
    assert plan.programs == [[0, 1, 2, 3], [4, 5, 6, 7]]  # a batch is one program's
    assert make_plan(dict(enumerate(some[:4])), 2).programs == [[0, 1], [2, 3]]  # else one of two processes would idle
    assert make_plan(dict(enumerate(some[:4])), 1).programs == [[0, 1, 2, 3]]
    assert plan.bases == [[0]]
    assert 0 < plan.memory < 2**30
    assert plan.minutes["ensemble"] > 0


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(40, 400), st.integers(1, 9))
def test_programs_are_as_many_as_asked_for_and_none_is_too_large(members, most, count):
    parts = split(range(len(members)), members, float(most), count)
    assert [i for part in parts for i in part] == list(range(len(members)))  # neighbours, every one once
    sizes = [sum(members[i] for i in part) for part in parts]
    assert all(size <= most or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    assert max(map(len, parts)) <= CELLS
    alike = split(range(len(members)), [7] * len(members), float(most), count)
    fewest = max(-(-len(members) // (most // 7)), -(-len(members) // CELLS))
    assert fewest <= len(alike) <= max(fewest, min(-(-fewest // count) * count, len(members)))  # of cells that are all as large


def test_memory_is_what_a_batch_system_grants(tmp_path):
    (tmp_path / "cgroup").write_text("0::/slurm/job_3/step_0\n")
    job = tmp_path / "fs/slurm/job_3"
    (job / "step_0").mkdir(parents=True)
    (job / "memory.max").write_text("17179869184\n")
    (job / "step_0/memory.max").write_text("max\n")
    assert min(cgroup_limits(tmp_path / "cgroup", tmp_path / "fs")) == 2**34
    assert min(cgroup_limits(tmp_path / "nothing")) == float("inf")
