"""Agents and baselines that learn, and a feature extractor for Stable-Baselines3's own algorithms."""

from glimpse.agents.baselines import Grid, Overview, Random
from glimpse.agents.features import GlimpseFeatures
from glimpse.agents.ppo import PPO
from glimpse.agents.reinforce import Reinforce

__all__ = ["PPO", "GlimpseFeatures", "Grid", "Overview", "Random", "Reinforce"]
