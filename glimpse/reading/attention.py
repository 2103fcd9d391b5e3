"""How much each look attends to those before it, in the transformer that relates what was seen."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from glimpse.errors import EvaluationError
from glimpse.networks.aggregator import CausalTransformer, ScorePooling
from glimpse.networks.policy import GlimpsePolicy
from glimpse.reading.playing import evaluating
from glimpse.reading.records import Reading


def attention_between(policy: GlimpsePolicy, reading: Reading) -> Float[np.ndarray, "layer token token"]:
    """Returns how much each look attends to itself and to what was seen before, as the mean of a layer's heads.

    Token 0 is that of the overview, which has no content where answers use glimpses only
    (`network.overview_dropout=1`), and token i that of the i-th look. Entry (layer, s, t) says how much token s attends
    to token t. Rows add up to 1, and what came later has 0.

    Args:
        policy: the policy that has read the case, such as `glimpse.load(run).policy`.
        reading: its reading, with a trace.

    Raises:
        EvaluationError: the policy has no transformer (`network/aggregator=transformer` is one, and `score_pooling` has
            one beside its scores).
        ValueError: the reading has no trace.
    """
    aggregator = policy.aggregator
    transformer = aggregator.together if isinstance(aggregator, ScorePooling) else aggregator
    if not isinstance(transformer, CausalTransformer) or not len(transformer.blocks):
        raise EvaluationError(
            f"{type(aggregator).__name__} relates looks without attention between them. Train with "
            "network/aggregator=transformer, or with score_pooling and network.aggregator.layers of at least 1."
        )
    with evaluating(policy):
        weights = transformer.weights(tokens_of(policy, reading)[None])
    return weights[0].mean(1).float().cpu().numpy()


@torch.no_grad()
def tokens_of(policy: GlimpsePolicy, reading: Reading) -> Float[Tensor, "token embed"]:
    """Returns what the aggregator took in: the token of the overview as answers use it, then those of the looks.

    Args:
        policy: the policy that has read the case, in evaluation mode.
        reading: its reading, with a trace.
    """
    trace, device = reading.traced, policy.device
    overview = torch.from_numpy(trace.overview[None]).to(device)
    tokens = policy.overview_in_answers(policy.pool(policy.features(overview)) + policy.scale.weight[0])
    if not reading.glimpses:
        return tokens
    glimpses, zooms = torch.from_numpy(trace.glimpses).to(device), torch.from_numpy(reading.zooms).to(device)
    seen, wide = policy.look(glimpses), zooms < policy.layout.zooms - 1
    if wide.any():  # their cells may be finer than those of other glimpses
        seen = seen.clone()
        seen[wide] = policy.pool.summary(policy.view_features(glimpses[wide]))
    places = torch.from_numpy(reading.scanpath).to(policy.cells)
    return torch.cat([tokens, policy.glimpse_token(seen, places, zooms)])
