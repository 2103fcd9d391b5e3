"""The checker for people who write an environment: `glimpse.envs.check(env)`."""

from glimpse.envs.checking.checker import ContractError, check

__all__ = ["ContractError", "check"]
