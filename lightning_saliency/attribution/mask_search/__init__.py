"""The search of extremal perturbation: masks of given areas with the largest reward."""
