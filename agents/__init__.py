"""Learning algorithms and baselines, on Stable-Baselines3's `OnPolicyAlgorithm`; features for stock algorithms."""

from glimpse.agents.baselines import Grid, Overview, Random
from glimpse.agents.features import GlimpseFeatures
from glimpse.agents.ppo import PPO
from glimpse.agents.reinforce import Reinforce

__all__ = ["PPO", "GlimpseFeatures", "Grid", "Overview", "Random", "Reinforce"]
