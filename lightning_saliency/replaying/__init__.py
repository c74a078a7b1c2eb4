"""What can be learned from the checkpoints that a run has left."""

from lightning_saliency.replaying.bisect import Bisection, bisect
from lightning_saliency.replaying.files import Checkpoint, Skipped
from lightning_saliency.replaying.replay import Replay, replay

__all__ = ["Bisection", "Checkpoint", "Replay", "Skipped", "bisect", "replay"]
