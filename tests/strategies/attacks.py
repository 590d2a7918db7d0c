"""What liars send, given what the honest send, (clients, weights): one row for each liar."""

from statistics import NormalDist

import numpy as np


def sign_flip(honest, liars):
    """As clients/malicious.py: a true update turned round."""
    return -honest[:liars]


def huge_norm(honest, liars):
    return np.stack([(-1e6 if liar % 2 else 1e5) * honest[liar] for liar in range(liars)])


def collusion(honest, liars):
    """All send the same update, backwards and as long as an honest one, so that they are each other's nearest neighbours."""
    return np.repeat(-honest.mean(axis=0, keepdims=True), liars, axis=0)


def little_is_enough(honest, liars):
    """Baruch et al., NeurIPS 2019, https://arxiv.org/abs/1902.06156, Algorithm 3: as far from the mean as goes unnoticed."""
    clients = len(honest) + liars
    supporters = clients // 2 + 1 - liars
    z = NormalDist().inv_cdf((clients - liars - supporters) / (clients - liars))
    return np.repeat((honest.mean(axis=0) - z * honest.std(axis=0))[None], liars, axis=0)


ATTACKS = {attack.__name__: attack for attack in (sign_flip, huge_norm, collusion, little_is_enough)}
