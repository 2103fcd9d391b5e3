"""Warm-up: all parts after the encoder learn, from labelled random glimpses, what is worth finding and where it lies.

A single glimpse says little about a whole image, so a policy needs many glimpses to learn to answer, and until then it
does not know what to search for. The encoder is not trained here. Each glimpse is therefore read and encoded only once
and then used in about a hundred different sequences, which costs next to nothing.

From the same glimpses the locator learns where to look first. Their locations were drawn evenly, and it is known how
well each glimpse alone predicts the target, so the expected benefit of choosing among them has an exact gradient.
Trying locations one by one, as in the joint stage, would take many episodes to find small things in a large image. The
later glimpses of the sequences show how much it is worth to look at what was seen already.

With few cases, answers from single glimpses are soon learned by heart: any glimpse of a slide says its label then, by
the stain for instance. So there are few steps, and a simple locator (`unary_layers=1`, `look_by_state=False`).
"""

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glimpse.cohort import Case
from glimpse.learning.augment import Augment, glimpse_augment
from glimpse.learning.judging import Judges, answering_loss, judges_of, minus_worth, single_answer_loss
from glimpse.learning.looking import Worth, looking_loss
from glimpse.learning.trainer import Trainer
from glimpse.learning.warm_up_options import WarmUpOptions
from glimpse.networks.locator import PointerLocator
from glimpse.networks.overlap import NEAR, mutual
from glimpse.networks.places import Glanced, KnownPlaces
from glimpse.networks.policy import GlimpsePolicy, answering_parts
from glimpse.networks.records import Conduct
from glimpse.ranks.sharing import add_gradients, gathered, of_all, over_all, share_of, sharing, total
from glimpse.settings.options import option_names, sorted_into
from glimpse.tasks import Task
from glimpse.views import Views, identity_of

_FIXED = Conduct(train_encoder=False)
_SAMPLE = 32  # at most so many cases, by whose foreground the number of glimpses of all of them is chosen
_MOST = 4  # times `glimpses_per_case`, where it is chosen by the foreground


class TokenWarmUp(Trainer):
    """Supervised learning on sequences of random glimpses of each case, from features that are computed once.

    The loss is that of the last answer and of the mean over all prefixes (with `answer_judges`, the distance from what
    judges answer in place of both), and of answers from single glimpses, as all agents have it, plus the locator's loss
    (see `glimpse.learning.looking`).

    Args:
        policy: The policy to train, except its encoder and its memory. Its locator is trained only if it is a
            `PointerLocator`.
        cases: The cases of the training split.
        views: Sizes and fields of view of glimpses.
        task: The task whose targets are to be predicted.
        seed: Seed of locations, of the order of glimpses, and of batches.
        threads: How many threads read.
        **options: The fields of the records in `glimpse.learning.warm_up_options`, by name.

    Attributes:
        done: How many steps have been made.
        used: How many glimpses of a case one step uses; the first `max_sequence` of them are the sequence.
        among: Among how many glimpses the locator learns to choose.
        judges: From whom answers learn in place of labels, if they do; they know glimpses of the finest level.
        unlearned: What answers, as it was before the first step, if it is to learn anew later.

    Raises:
        SettingsError: An option does not exist or has an impossible value.
    """

    teaches_locator = True

    def __init__(
        self,
        policy: GlimpsePolicy,
        cases: Sequence[Case],
        views: Views,
        task: Task,
        *,
        seed: int = 0,
        threads: int = 2,
        **options: Any,
    ) -> None:
        self.options = self.parse_options(options)
        self.policy, self.cases, self.views, self.task, self.threads = policy, cases, views, task, threads
        self.done, self.places, self.seed = 0, KnownPlaces(None), seed
        self.judged: list[Tensor] = []  # (case, glimpse) by level: losses of what judges answer, or minus its surprise
        self.judges: Judges | None = None
        glimpses = self.options.glimpses
        affordable = glimpses.max_total_glimpses // max(1, len(cases))
        self.glimpses_per_case = max(1, min(self._wanted(), affordable))
        self.max_sequence = min(glimpses.max_sequence, self.glimpses_per_case)
        self.batch = min(self.options.steps.batch, len(cases))
        self.looks = (
            self.teaches_locator and self.options.losses.look_coef != 0 and isinstance(policy.locator, PointerLocator)
        )
        sets = glimpses.look_among is not None and self.looks
        self.used = self.glimpses_per_case if sets else self.max_sequence
        self.among = glimpses.look_among or self.max_sequence
        self.generator = torch.Generator().manual_seed(seed)
        self.seeds = np.random.default_rng(seed).integers(2**63, size=len(cases))
        self.augment: Augment | None = None
        self._manner = "glimpse"
        if glimpses.augment is not None:
            shape = policy.observation_space["glimpse"].shape  # type: ignore[index]
            sides = views.sides(cases[0].source, -1)  # of the finest glimpses: wide ones are not turned
            self.augment = glimpse_augment(shape, policy.encoder.background, glimpses.augment, sides)
            how = sorted({**glimpses.augment, "shift": 0.0}.items())
            self._manner = f"augmented by {how}, {sides}, {policy.encoder.background}, {policy.grid}"
        rate, decay = self.options.steps.learning_rate, self.options.steps.weight_decay
        self.optimizer = torch.optim.AdamW(self._trained(), rate, weight_decay=decay)
        self.unlearned = copy.deepcopy(answering_parts(policy)) if self.looks_again else None
        self.expect: nn.Module | None = None
        if self.looks and self.options.losses.look_expected:
            embed = policy.width
            self.expect = nn.Sequential(nn.Linear(embed, embed), nn.ReLU(), nn.Linear(embed, 1)).to(policy.device)
            self.optimizer.add_param_group({"params": list(self.expect.parameters())})

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The names of the options."""
        return option_names(WarmUpOptions)

    @classmethod
    def parse_options(cls, options: Mapping[str, Any]) -> WarmUpOptions:
        """Checks options and sorts them into records, before there is a policy or a case.

        Raises:
            SettingsError: An option does not exist or has an impossible value.
        """
        return sorted_into(WarmUpOptions, options, cls.__name__)

    @property
    def steps(self) -> int:
        """How many steps there will be."""
        return self.options.steps.steps

    @property
    def looks_again(self) -> bool:
        """Whether answers are to learn anew from where the locator has learned to look."""
        return self.looks and self.options.steps.steps > 0 and self.options.again.second_look > 0

    def _trained(self) -> list[nn.Parameter]:
        policy = self.policy
        idle = [policy.encoder, policy.memory, *([] if self.looks else [policy.locator])]
        left = {id(p) for part in idle for p in part.parameters()}
        return [p for p in policy.parameters() if id(p) not in left]

    def _wanted(self) -> int:
        """How many glimpses of a case should be read, by the size of the foreground."""
        glimpses = self.options.glimpses
        least = glimpses.glimpses_per_case
        if not glimpses.glimpses_per_patch:
            return least
        chosen = np.linspace(0, len(self.cases) - 1, min(_SAMPLE, len(self.cases))).round().astype(int).tolist()

        def patches_of(index: int) -> float:
            source = self.cases[index].source
            return self.views.foreground_pixels(source) / float(np.prod(self.views.extent(source)))

        with ThreadPoolExecutor(self.threads, thread_name_prefix="foregrounds") as pool:
            patches = list(pool.map(patches_of, chosen))
        return min(max(least, round(glimpses.glimpses_per_patch * float(np.mean(patches)))), _MOST * least)

    # ------------------------------------------------------------------------------------------ reading, once
    @torch.no_grad()
    def encode(self, progress: Callable[[int], Any] = lambda count: None, at_once: int = 16) -> None:
        """Reads and encodes the glimpses of all cases, and their overviews where answers or the locator need them.

        Args:
            progress: Called with the number of cases that were encoded since the last call.
            at_once: How many cases are encoded at once.
        """
        policy = self.policy
        self.places = policy.known_places()
        parts: dict[str, list[Tensor]] = {name: [] for name in ("features", "cells", "zooms", "overviews", "at_cells")}
        with ThreadPoolExecutor(self.threads, thread_name_prefix="warm-up") as pool:
            for chosen, read in self._read_ahead(pool, at_once, self._read):
                glanced, cells, zooms = zip(*read, strict=True)
                pooled = self.places.features(glanced, self._look)
                parts["features"].append(pooled.unflatten(0, (len(chosen), -1)))
                parts["cells"].append(torch.from_numpy(np.stack(cells)))
                parts["zooms"].append(torch.from_numpy(np.stack(zooms)))
                if policy.overview_dropout < 1 or self.looks:
                    for index, places in zip(chosen, parts["cells"][-1], strict=True):
                        shown, pointed_at = self._overview(index, places)
                        parts["overviews"].append(shown)
                        parts["at_cells"].append(pointed_at)
                progress(len(chosen))
        self.kept = {name: gathered(torch.cat(tensors).to(policy.device)) for name, tensors in parts.items() if tensors}
        calibrates = self.looks and self.options.losses.look_calibrated and not self.done
        if calibrates and isinstance(policy.locator, PointerLocator):
            policy.locator.calibrate(policy.narrow(self.kept["at_cells"]))
        extents = np.stack([self.views.relative_extents(case.source) for case in self.cases])
        self.kept["sides"] = 2 * torch.from_numpy(extents).to(policy.device)
        self.targets = torch.from_numpy(self.task.stack([case.target for case in self.cases])).to(policy.device)
        self._judge([self.kept["features"]])

    def _judge(self, features: Sequence[Tensor]) -> None:
        """Makes the judges that are wanted: those of what glimpses of each level are worth, and those of answers."""
        losses, known = self.options.losses, (self.targets, self.task)
        how = self.seed, losses.cross_fitted
        if self.looks and losses.look_judges is not None:
            judges = [judges_of(level, *known, losses.look_judges, *how) for level in features]
            self.judged = [minus_worth(level.answers, *known, losses.look_worth) for level in judges]
            if losses.answer_judges == losses.look_judges:  # they would be the same again
                self.judges = judges[-1]
                return
        if losses.answer_judges is not None:
            self.judges = judges_of(features[-1], *known, losses.answer_judges, *how)

    def _read_ahead(
        self, pool: ThreadPoolExecutor, at_once: int, read_case: Callable[[int], Any]
    ) -> Iterator[tuple[range, list[Any]]]:
        """Yields the indices of some cases of this rank, and what was read of them; meanwhile, the next are read."""
        own = range(len(self.cases))[share_of(len(self.cases)).own]
        parts = [own[start : start + at_once] for start in range(0, len(own), at_once)]
        ahead = deque([pool.map(read_case, part) for part in parts[:2]])
        for number, part in enumerate(parts):
            read = list(ahead.popleft())
            if number + 2 < len(parts):
                ahead.append(pool.map(read_case, parts[number + 2]))
            yield part, read

    def _read(self, index: int) -> tuple[Glanced, np.ndarray, np.ndarray]:
        """Looks up or reads random glimpses of a case; returns them, the cells in which they lie, and their zooms."""
        source, rng, views = self.cases[index].source, np.random.default_rng(self.seeds[index]), self.views
        cells, zooms = self._places(index, rng), rng.integers(len(views.glimpse_extents), size=self.glimpses_per_case)
        locations = self.policy.cells.cpu().numpy()[cells]

        def read(missing: list[int]) -> np.ndarray:
            known = identity_of(source)
            images = np.stack([views.kept_glimpse(source, locations[one], int(zooms[one]), known) for one in missing])
            return images if self.augment is None else self._augmented(images, index, cells[missing], zooms[missing])

        def regions() -> tuple[np.ndarray, np.ndarray]:
            return source.frame.to_pixels(locations), views.extents(source)[zooms]

        manner = self._manner if self.augment is None else f"{self._manner}, {self.seeds[index]}"
        return self.places.glance(source, views, len(cells), regions, read, manner), cells, zooms

    def _augmented(
        self, images: np.ndarray, index: int, cells: np.ndarray, zooms: np.ndarray, augment: Augment | None = None
    ) -> np.ndarray:
        """Returns random views of glimpses of a case; the same place is always seen in the same way."""
        augment = augment or self.augment
        assert augment is not None
        views = []
        for image, cell, zoom in zip(torch.from_numpy(images), cells, zooms, strict=True):
            seed = np.random.SeedSequence([int(self.seeds[index]), int(cell), int(zoom)]).generate_state(1)[0]
            views.append(augment.whole_pixels(image[None], torch.Generator().manual_seed(int(seed)))[0])
        return torch.stack(views).numpy()

    def _look(self, images: Tensor) -> Tensor:
        """Encodes and pools images; only features that are kept on disk are looked up before images are copied."""
        images = images if self.places.kept else images.to(self.policy.device)
        return self.policy.look(images, conduct=_FIXED)

    def _overview(self, index: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes a case's overview; returns its summary (1, pooled) and the features at `places` (1, place, embed)."""
        policy = self.policy
        overview = torch.from_numpy(self.views.overview(self.cases[index].source).copy())[None]
        features = policy.features(overview.to(policy.device), _FIXED)
        return policy.pool.summary(features), features.flatten(2)[:, :, places.to(policy.device)].transpose(1, 2)

    def _places(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Draws foreground cells of a case, int (glimpse,), that a locator could choose; all different if possible."""
        foreground = torch.from_numpy(self.views.foreground(self.cases[index].source).copy())[None]
        cells = np.flatnonzero(self.policy.open_cells(foreground)[0].numpy())
        return rng.choice(cells, self.glimpses_per_case, replace=len(cells) < self.glimpses_per_case)

    # ------------------------------------------------------------------------------------------ learning
    def step(self) -> Float[Tensor, ""]:
        """Makes one update and returns its loss, for which nobody waits as long as it stays on its device."""
        cases = torch.randperm(len(self.cases), generator=self.generator)[: self.batch].to(self.policy.device)
        order = torch.rand(len(cases), self.glimpses_per_case, generator=self.generator).argsort(1)
        with sharing(len(cases)) as own:
            loss = of_all(self._loss(cases[own], order[own]))
            self._update(loss)
            return total(loss).detach()

    def _loss(self, cases: Int[Tensor, " case"], order: Int[Tensor, "case glimpse"]) -> Tensor:
        policy, losses = self.policy, self.options.losses
        rows = cases[:, None], order[:, : self.used].to(cases.device)
        tokens, first = self._tokens(rows)
        sequence = torch.cat([first[:, None], tokens[:, : self.max_sequence]], 1)
        answers = policy.answer_head(policy.aggregator(sequence))
        every, single = self._losses(answers, cases), self._losses(policy.glimpse_head(tokens), cases)
        loss = answering_loss(answers, every, losses.prefix_coef, self.judges, cases, rows[1][:, : self.max_sequence])
        loss = loss + losses.glimpse_coef * single.mean() + single_answer_loss(policy, tokens, self.judges, rows)
        if self.looks:
            logits, time = self._look_logits(rows), self.max_sequence
            known = self.judged[0][rows] if self.judged else single.detach()
            if self.expect is not None:
                expected = self._expected(tokens)
                loss, known = loss + F.mse_loss(expected, known), expected.detach()
            later = self.seeing_loss((rows[0], rows[1][:, :time]), logits[:, :time], every.detach())
            first = looking_loss(logits, known, self.among, losses.look_entropy)
            loss = loss + losses.look_coef * (first + later)
        return loss

    def _update(self, loss: Tensor) -> None:
        rate = self.options.steps.learning_rate * 0.5 * (1 + np.cos(np.pi * self.done / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        add_gradients(self.optimizer)
        nn.utils.clip_grad_norm_(itertools.chain.from_iterable(g["params"] for g in self.optimizer.param_groups), 1.0)
        self.optimizer.step()
        self.done += 1

    @torch.no_grad()
    def worth(self) -> Worth:
        """Returns how well each glimpse alone predicts the target now, or is expected to (see `WarmUpLosses`)."""
        everyone = torch.arange(len(self.cases), device=self.policy.device)
        glimpses, losses = torch.arange(self.glimpses_per_case, device=self.policy.device), []
        for cases in everyone.split(self.batch):
            tokens, _ = self._tokens((cases[:, None], glimpses.expand(len(cases), -1)))
            losses.append(self._known(tokens, cases))
        names, entropy = tuple(case.id for case in self.cases), self.options.losses.look_entropy
        return Worth(names, self.kept["cells"], torch.cat(losses), self.among, entropy)

    def _known(self, tokens: Float[Tensor, "batch glimpse embed"], cases: Tensor, level: int = 0) -> Tensor:
        """Returns the loss of the answer from each of all glimpses of some cases alone, as far as the locator knows."""
        if self.expect is not None:
            return self._expected(tokens)
        return self.judged[level][cases] if self.judged else self._losses(self.policy.glimpse_head(tokens), cases)

    # ------------------------------------------------------------------------------------------ parts of a step
    def _tokens(self, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns tokens of glimpses (batch, time, embed), and of overviews (batch, embed); `rows` index both."""
        policy = self.policy
        where = policy.position(policy.cells[self.kept["cells"][rows]]) + policy.scale(self.kept["zooms"][rows] + 1)
        tokens = policy.pool.token(self.kept["features"][rows]) + where
        first = policy.scale.weight[0].expand(len(tokens), -1)
        if policy.overview_dropout < 1:
            first = policy.overview_in_answers(policy.pool.token(self.kept["overviews"][rows[0][:, 0]]) + first)
        return tokens, first

    def _look_logits(self, rows: tuple[Tensor, Tensor]) -> Float[Tensor, "batch time"]:
        """Returns the locator's logits of some glimpses as the first choice; `rows` index both."""
        policy = self.policy
        places = self.kept["cells"][rows]
        keys, unary = policy.describe(self.kept["at_cells"][rows], policy.cells[places])
        if not self.options.losses.look_by_state:
            return unary
        with torch.no_grad():
            token = policy.pool.token(self.kept["overviews"][rows[0][:, 0]]) + policy.scale.weight[0]
            state = policy.memory.step(token, token.new_zeros(len(token), policy.memory.hidden))
        return policy.locator.logits(state[:, None], keys, unary)[:, 0]

    def _expected(self, tokens: Float[Tensor, "batch time embed"]) -> Float[Tensor, "batch time"]:
        """Returns the loss that the answer from each glimpse alone is expected to have, by the glimpse's token."""
        assert self.expect is not None
        return self.expect(tokens.detach())[..., 0]

    def modules(self) -> dict[str, nn.Module]:
        """The policy, what expects losses, and the answering parts as they were, as far as there are such."""
        more = {"expect": self.expect, "unlearned": self.unlearned}
        return super().modules() | {name: module for name, module in more.items() if module is not None}

    def seeing_loss(
        self, rows: tuple[Tensor, Tensor], logits: Float[Tensor, "batch time"], every: Float[Tensor, "batch step"]
    ) -> Tensor:
        r"""Returns the loss of later choices, from which the locator's penalty on what was seen already is learned.

        A sequence is in random order, so its glimpse t is an even draw from the n_t glimpses that are not among the
        first t - 1. Let p_t be the probability with which the locator would choose it from them. Then n_t p_t g_t is an
        unbiased estimate of the expected gain of that choice, where g_t is how much lower the loss of the answer became
        with glimpse t. The mean of g_t over the batch is subtracted from it, which makes the estimate less noisy.

        Args:
            rows: Indices of cases and of their glimpses.
            logits: The locator's logits of the glimpses; no gradient is passed on to them.
            every: The losses of the answers after each prefix of the sequences, without gradient.
        """
        policy, time = self.policy, logits.shape[1]
        sides, zoom = self.kept["sides"][rows[0], self.kept["zooms"][rows]], self.kept["zooms"][rows]
        places = policy.cells[self.kept["cells"][rows]]
        # what the first t - 1 glimpses show, for t from 2 on, and what is near to that
        covered, near = (mutual(places, sides, size).cumsum(1)[:, :-1].clamp_max(1) for size in (1.0, NEAR))
        penalised = logits.detach()[:, None] - policy.locator.penalty(covered, near, zoom[:, None].expand_as(covered))
        used = torch.ones(time, time, dtype=torch.bool, device=logits.device).tril()[:-1]
        probs = penalised.masked_fill(used, -torch.inf).softmax(-1)
        chosen = probs.diagonal(1, 1, 2) * torch.arange(time - 1, 0, -1, device=probs.device)
        gain = (every[:, :-1] - every[:, 1:])[:, 1:]
        return -(chosen * (gain - over_all(gain).mean(0))).mean() if time > 1 else chosen.sum()

    def _losses(self, predictions: Tensor, cases: Tensor) -> Tensor:
        """Returns the task's loss (batch, time) of predictions (batch, time, output)."""
        target = self.targets[cases]
        return self.task.loss(predictions, target[:, None].expand(-1, predictions.shape[1], *target.shape[1:]))
