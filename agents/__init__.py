"""Learning algorithms and baselines, on Stable-Baselines3's `OnPolicyAlgorithm`."""

from glimpse.agents.baselines import Grid, Overview, Random
from glimpse.agents.ppo import PPO
from glimpse.agents.reinforce import Reinforce

__all__ = ["PPO", "Grid", "Overview", "Random", "Reinforce"]
