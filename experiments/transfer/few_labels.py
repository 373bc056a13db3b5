"""Tweets from 100 labels: unlabelled tweets beside them help, or do no harm.

Two losses are minimised together by the same adapters and head: the task's on 100 labelled tweets and another on
unlabelled ones. The other is the backbone's (unsupervised SimCSE) or the task's own (UDA's consistency under TF-IDF
word replacement). The baseline trains on the labels alone.
"""

import dataclasses

import numpy as np

from experiments.study import Claim, after, beats
from experiments.transfer.tweets import UPPER
from ft_jax import data
from ft_jax.assets import MINILM
from ft_jax.data.augment_text import replace_uninformative, word_statistics
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Parts, Use
from ft_jax.training.specs import Pretrained, Texts
from ft_jax.transfer import contrastive, joint, uda

seeds = 3

ADAPTERS = Use("transfer.lora", rank=8, alpha=16.0, targets=UPPER, also=("*/head/*",))
TWEETS = Texts(("sentiment:tweets",), length=32, labelled=100, unlabelled="sentiment:tweets", unlabelled_batch=12)


def with_backbone(parts: Parts):
    """The task's loss and the backbone's."""
    return joint(contrastive(parts.model.apply, temperature=0.5), weight=0.1)


def with_consistency(parts: Parts):
    """The task's loss and UDA's."""
    tokenizer = parts.model.tokenizer
    special = data.special_ids(tokenizer)
    texts = [one.ids for one in data.encode(tokenizer, data.unlabelled("tweets", "train").columns["text"])]
    statistics = word_statistics(texts, parts.model.config.vocabulary, special)
    return uda(parts.model.apply, replace_uninformative(0.3, statistics, special), threshold=0.8)


experiment = Experiment(
    name="transfer/few_labels",
    model=Pretrained(MINILM, classes=2),
    data=TWEETS,
    method=(with_backbone, ADAPTERS),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=40, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

baselines = {
    "the labels alone": dataclasses.replace(
        experiment,
        name="transfer/few_labels-alone",
        data=dataclasses.replace(TWEETS, unlabelled=None),
        method=(ADAPTERS,),
    ),
    "consistency": dataclasses.replace(
        experiment, name="transfer/few_labels-consistency", method=(with_consistency, ADAPTERS)
    ),
}


def claims(results):
    """Accuracy on held-out tweets."""
    alone, consistent = (np.mean([after(one) for one in results[name]]) for name in baselines)
    return [
        beats(results, after, "the labels alone", 0.0, "accuracy on tweets with the backbone's loss"),
        Claim(
            f"accuracy on tweets with consistency {consistent:.3f} against {alone:.3f} of the labels alone: better by "
            f"{consistent - alone:.3f}, at least 0 was claimed",
            bool(consistent >= alone),
        ),
    ]
