"""Fine-tuning on rows of ids: the token's row, batches, LoRA, the loop and the check at its end.

from unsay.train.sft import train
"""
