"""What the papers' own programs save, in small and with random numbers, and what their heads compute, as plain loops.

Names and shapes are those of the public repositories; the formulas are the papers'. Every head takes features (C, h, w)
of one picture and gives K logits.
"""

import math

import torch
import torchvision

C, K, D, FFN = 12, 5, 8, 6  # channels, classes, width, width inside
SIDE = 3  # of the feature map
SPECIAL = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99]}  # temperatures of CSRA


def some(*shape):
    return torch.randn(*shape, dtype=torch.float64).float()


def linear(name, rows, columns):
    return {f"{name}.weight": some(rows, columns) / columns**0.5, f"{name}.bias": some(rows)}


def norm(name, width):
    return {f"{name}.weight": 1 + some(width) / 4, f"{name}.bias": some(width) / 4}


def attention(name, width):
    joint = {f"{name}.in_proj_weight": some(3 * width, width) / 2, f"{name}.in_proj_bias": some(3 * width)}
    return joint | linear(f"{name}.out_proj", width, width)


def layer(name, of_attention, norms):
    inside = linear(f"{name}.linear1", FFN, D) | linear(f"{name}.linear2", D, FFN)
    made = attention(f"{name}.{of_attention}", D) | inside
    for part in norms:
        made |= norm(f"{name}.{part}", D)
    return made


def csra(heads=2):
    return {f"classifier.multi_head.{i}.head.weight": some(K, C, 1, 1) for i in range(heads)}


def ml_decoder(groups=4, classes=K, start="head", width=C):
    per_group = int(classes / groups + 0.999)
    name = f"{start}.decoder"
    state = linear(f"{name}.embed_standart", D, width) | {f"{name}.query_embed.weight": some(groups, D)}
    state |= layer(f"{name}.layers.0", "multihead_attn", ("norm1", "norm2", "norm3"))
    return state | {
        f"{name}.duplicate_pooling": some(groups, D, per_group),
        f"{name}.duplicate_pooling_bias": some(classes),
    }


def query2label(width=C, encoders=1, decoders=2):
    state = {"input_proj.weight": some(D, width, 1, 1), "input_proj.bias": some(D), "query_embed.weight": some(K, D)}
    for i in range(encoders):
        state |= layer(f"transformer.encoder.layers.{i}", "self_attn", ("norm1", "norm2"))
    for i in range(decoders):
        state |= layer(f"transformer.decoder.layers.{i}", "multihead_attn", ("norm2", "norm3"))
    state |= norm("transformer.decoder.norm", D) | {"fc.W": some(1, K, D), "fc.b": some(1, K)}
    code = torch.stack([position(row, column) for row in range(SIDE) for column in range(SIDE)])
    return state | {"backbone.1.pe": code.T.reshape(1, D, SIDE, SIDE)}


def mulcon(channels=C):
    """The tensors of the attention's file, and those of the classes' files."""
    state = {"I": some(1, K, D)}
    for name, tokens, width in (
        *(("sab1.mab", channels, channels), ("sab2.mab", channels, channels)),
        *(("mab", channels, D), ("sab3.mab", D, D)),
    ):
        state |= linear(f"{name}.fc_q", width, width) | linear(f"{name}.fc_o", width, width)
        state |= linear(f"{name}.fc_k", width, tokens) | linear(f"{name}.fc_v", width, tokens)
        state |= norm(f"{name}.ln0", width) | norm(f"{name}.ln1", width)
    return state, [{"weight": some(1, D), "bias": some(1)} for _ in range(K)]


def position(row, column):
    """DETR's code of a place, from 1, on a map of SIDE x SIDE, as its code scales it."""
    half, code = D // 2, []
    for place in (row, column):
        angle = (place + 1) / (SIDE + 1e-6) * 2 * math.pi
        for i in range(half):
            value = angle / 10000 ** (2 * (i // 2) / half)
            code.append(math.cos(value) if i % 2 else math.sin(value))
    return torch.tensor(code)


def apply(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normalise(state, name, x):
    middle = x.mean(-1, keepdim=True)
    spread = ((x - middle) ** 2).mean(-1, keepdim=True)
    return (x - middle) / (spread + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def mixed(query, key, value, heads, scale):
    """Heads side by side, each row a softmax over the keys."""
    rows = []
    for i in range(len(query)):
        parts = []
        for h in range(heads):
            own = slice(h * query.shape[1] // heads, (h + 1) * query.shape[1] // heads)
            scores = torch.tensor([float(query[i, own] @ key[j, own]) * scale for j in range(len(key))])
            weights = (scores - scores.max()).exp()
            weights = weights / weights.sum()
            parts.append(sum(weights[j] * value[j, own] for j in range(len(key))))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def attend(state, name, query, key, value, heads):
    matrix, bias = state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"]
    width = query.shape[1]
    q, k, v = (
        x @ matrix[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
        for i, x in enumerate((query, key, value))
    )
    return apply(state, f"{name}.out_proj", mixed(q, k, v, heads, 1 / math.sqrt(width / heads)))


def forward_part(state, name, x):
    return apply(state, f"{name}.linear2", apply(state, f"{name}.linear1", x).clamp(min=0))


def csra_logits(state, features, lam, heads=2):
    logits = torch.zeros(K)
    for h, temperature in enumerate(SPECIAL[heads]):
        weight = state[f"classifier.multi_head.{h}.head.weight"][:, :, 0, 0]
        for k in range(K):
            scores = weight[k] @ features.flatten(1) / (weight[k] ** 2).sum().sqrt()
            shares = (temperature * scores).exp() / (temperature * scores).exp().sum() if temperature != 99 else None
            seen = scores.max() if shares is None else (shares * scores).sum()
            logits[k] += scores.mean() + lam * seen
    return logits


def ml_decoder_logits(state, features, start="head", heads=8):
    name = f"{start}.decoder"
    tokens = apply(state, f"{name}.embed_standart", features.flatten(1).T).clamp(min=0)
    x = normalise(state, f"{name}.layers.0.norm1", 2 * state[f"{name}.query_embed.weight"])  # tgt + dropout(tgt)
    seen = attend(state, f"{name}.layers.0.multihead_attn", x, tokens, tokens, heads)
    x = normalise(state, f"{name}.layers.0.norm2", x + seen)
    x = normalise(state, f"{name}.layers.0.norm3", x + forward_part(state, f"{name}.layers.0", x))
    weight, bias = state[f"{name}.duplicate_pooling"], state[f"{name}.duplicate_pooling_bias"]
    per_group = weight.shape[2]
    return torch.stack([x[k // per_group] @ weight[k // per_group, :, k % per_group] for k in range(len(bias))]) + bias


def query2label_logits(state, features, encoders=1, decoders=2, heads=4):
    tokens = features.flatten(1).T
    if "input_proj.weight" in state:
        tokens = tokens @ state["input_proj.weight"][:, :, 0, 0].T + state["input_proj.bias"]
    code = torch.stack([position(row, column) for row in range(SIDE) for column in range(SIDE)])
    for i in range(encoders):
        name = f"transformer.encoder.layers.{i}"
        seen = attend(state, f"{name}.self_attn", tokens + code, tokens + code, tokens, heads)
        tokens = normalise(state, f"{name}.norm1", tokens + seen)
        tokens = normalise(state, f"{name}.norm2", tokens + forward_part(state, name, tokens))
    queries = state["query_embed.weight"]
    x = torch.zeros_like(queries)
    for i in range(decoders):
        name = f"transformer.decoder.layers.{i}"
        x = normalise(
            state,
            f"{name}.norm2",
            x + attend(state, f"{name}.multihead_attn", x + queries, tokens + code, tokens, heads),
        )
        x = normalise(state, f"{name}.norm3", x + forward_part(state, name, x))
    x = normalise(state, "transformer.decoder.norm", x)
    return torch.stack([state["fc.W"][0, k] @ x[k] + state["fc.b"][0, k] for k in range(K)])


def mulcon_logits(state, classes, features):
    def block(name, queries, tokens):
        q, k, v = (
            apply(state, f"{name}.{part}", x) for part, x in (("fc_q", queries), ("fc_k", tokens), ("fc_v", tokens))
        )
        out = normalise(state, f"{name}.ln0", q + mixed(q, k, v, 4, 1 / math.sqrt(q.shape[1])))
        return normalise(state, f"{name}.ln1", out + apply(state, f"{name}.fc_o", out).clamp(min=0))

    tokens = features.flatten(1).T
    for name in ("sab1.mab", "sab2.mab"):
        tokens = block(name, tokens, tokens)
    labels = block("mab", state["I"][0], tokens)
    labels = block("sab3.mab", labels, labels)
    return torch.cat([labels[k] @ classes[k]["weight"].T + classes[k]["bias"] for k in range(K)])


def resnet(norm=None):
    torch.manual_seed(1)
    made = torchvision.models.resnet18(norm_layer=norm).eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if "var" in name or "weight" in name else 0))
    return made


def features_of(model, pixels):
    for name, part in model.named_children():
        pixels = part(pixels) if name not in ("avgpool", "fc") else pixels
    return pixels
