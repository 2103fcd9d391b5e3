"""Learning algorithms and baselines, one file each over one base, on Stable-Baselines3's `OnPolicyAlgorithm`."""

from glimpse.agents.grid import Grid
from glimpse.agents.overview import Overview
from glimpse.agents.ppo import PPO
from glimpse.agents.random import Random
from glimpse.agents.reinforce import Reinforce

__all__ = ["PPO", "Grid", "Overview", "Random", "Reinforce"]
