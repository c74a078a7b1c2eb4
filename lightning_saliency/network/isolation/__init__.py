"""What an explanation touches of a model and its process, and how all of it is put back.

:mod:`~lightning_saliency.network.isolation.undisturbed` is the way in. It takes a ``snapshot``
of what is ``reachable`` from the model, by ``holders`` and ``tensors``; ``process_state`` is what
the whole process shares, ``weight_guard`` sees who wants to write to weights, and ``repeatability``
tells by two passes what cannot be put back.
"""
