"""One low-rank adapter after the other, as one would train them with PyTorch, transformers and peft: what `make bench` compares with.

The same network, rows, order, rank, rate and number of steps as ours; plain PyTorch, which is quicker here than compiling each adapter
anew. Needs the extra `bench`. Reads how many adapters are to be trained from a line of its input, prints the seconds of one.
"""

import copy
import sys
import time

import jax
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from bayesgen.learn.data import member_data
from bayesgen.learn.plan import plan_members
from bayesgen.setup import prepare
from tests.conftest import compose_config


def main():
    """Serve timings."""
    setup = prepare(compose_config("+exp=birds", "finetune.arms=[free]", "finetune.seeds=1", *sys.argv[1:]))
    f, m = setup.config.finetune, setup.config.model
    data = jax.device_get(member_data(setup.world, setup.grammar, f, plan_members(f)))
    rows = jax.tree.map(lambda x: x[0], data.narrow)
    labels = np.full_like(rows.tokens, -100)
    for label, where, target, weight in zip(labels, rows.where, rows.target, rows.weight, strict=True):
        label[where[weight > 0] + 1] = target[weight > 0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens, labels = torch.from_numpy(rows.tokens).long().to(device), torch.from_numpy(labels).long().to(device)
    torch.manual_seed(0)
    shape = dict(vocab_size=len(setup.grammar.tokenizer), n_positions=m.context, n_embd=m.width, n_layer=m.layers, n_head=m.heads)
    base = GPT2LMHeadModel(GPT2Config(**shape, activation_function="relu2", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).to(device)
    targets = ["c_attn", "c_proj", "c_fc"]
    lora = LoraConfig(r=max(f.rank), lora_alpha=f.alpha, target_modules=targets, fan_in_fan_out=True)

    def train():
        model = get_peft_model(copy.deepcopy(base), lora)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], f.learning_rate[0], weight_decay=0)
        for batch in torch.from_numpy(data.order[0]).long().to(device):
            model(input_ids=tokens[batch], labels=labels[batch]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    train()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            train()
        print((time.perf_counter() - began) / int(line), flush=True)


if __name__ == "__main__":
    main()
