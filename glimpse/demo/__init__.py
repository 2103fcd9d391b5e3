"""One slide, painted and read in a minute, with a policy that comes with the package."""
