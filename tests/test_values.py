"""Every number that an optimizer, a schedule, an augmentation is given, when it is none, or out of range: an error that names it."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from trimtab import data, optim

ODD = (None, "x", "0.5", b"x", True, -1, -0.5, math.nan, -math.inf, (), (1.0,), {}, 1j, torch.ones(2))
PARAMS = {"params": [torch.ones(3, 4, requires_grad=True)]}
WEIGHT, PARAMETERS = {"weight": torch.ones(3, 4)}, {"parameters": PARAMS["params"]}
BUILT = {
    **dict.fromkeys(("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "WindowAdadelta", "RMSprop"), PARAMS),
    **dict.fromkeys(("Newton", "SaddleFreeNewton"), PARAMS),
    "SAM": {**PARAMS, "base_optimizer": torch.optim.SGD},
    **dict.fromkeys(("l1_ball_", "l2_ball_", "linf_ball_", "max_norm_", "simplex_"), WEIGHT),
    "clip_grad_norm_": {**PARAMETERS, "max_norm": 1.0},
    "clip_grad_value_": {**PARAMETERS, "clip_value": 1.0},
    "clip_grad_adaptive_": PARAMETERS,
    "l1_penalty": {**PARAMETERS, "factor": 1.0},
    "l2_penalty": {**PARAMETERS, "factor": 1.0},
    "lp_penalty": {**PARAMETERS, "factor": 1.0, "p": 1.0},
    "elastic_net_penalty": {**PARAMETERS, "l1": 1.0, "l2": 1.0},
    **{key: {"beta": 0.5} for key in ("Exponential", "InverseTime", "NaturalExponential")},
    **{key: {"steps": 10} for key in ("Cosine", "OneCycle", "Warmup", "WarmupStableDecay")},
    **{key: {} for key in ("EMA", "SWA", "EarlyStopping", "ZClip", "SpikeGuard")},
}
BUILT |= {
    "CutOut": {},
    "FeatureNoise": {"features": 4, "std": 0.1},
    "FeatureScaling": {"std": 0.1},
    "GaussianNoise": {"std": 0.1},
    "FeatureMasking": {"features": 4, "p": 0.1},
    "MinMax": {"features": 4},
    **{key: {"classes": 3} for key in ("MixUp", "CutMix")},
    "RandAugment": {},
    "RandomAffine": {},
    **{key: {} for key in ("RandomHorizontalFlip", "RandomVerticalFlip")},
    "RandomRotation": {"degrees": 10.0},
    "RandomScale": {"scale": (0.9, 1.1)},
    "RandomTranslation": {"share": 0.1},
    "TimeMasking": {"share": 0.1},
    "Whiten": {"features": 4},
}
TAKEN = {  # what some take: a length of 0 steps or more, a place from the end, ratios without a bound, None for "no limit"
    "dampening": (-1, -0.5),
    "MinMax.axis": (-1,),
    "Whiten.axis": (-1,),
    "dim": (None, -1, ()),
    "fill": (-1, -0.5),
    "batches": (None,),
    "classes": (None,),
    "components": (None,),
    "FeatureNoise.features": (None,),
    "max_step": (None,),
    "low": (-1, -0.5),
    "tolerance": (None,),
}
NUMBERS = ("float", "int", "int | None", "float | tuple[float, float]", "tuple[float, float]", "float | None", "Dim")


@pytest.mark.parametrize("name", sorted(BUILT))
def test_what_is_no_number_is_refused(name):
    make, given = getattr(optim, name, None) or getattr(data, name), BUILT[name]
    known = inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters
    numbers = [key for key, parameter in known.items() if parameter.annotation in NUMBERS]
    assert numbers
    make(**given)
    for key in numbers:
        for value in ODD:
            if any(
                value is one or value == one
                for one in TAKEN.get(key, TAKEN.get(f"{name}.{key}", ()))
                if not isinstance(value, torch.Tensor)
            ):
                make(**{**given, key: value})
                continue
            with pytest.raises((ValueError, TypeError)) as error:
                make(**{**given, key: value})
            assert key in str(error.value) or (key == "clip_value" and "bound" in str(error.value)), (key, value)
            assert "must" in str(error.value)


def test_each_complains_in_its_own_name():
    for name in ("max_norm_", "l1_ball_", "l2_ball_", "linf_ball_", "simplex_"):
        with pytest.raises(ValueError, match=f"^{name}: radius=0.0 must be positive"):
            getattr(optim, name)(torch.ones(3, 4), 0.0)
    for name in ("max_norm_", "unit_norm_", "l1_ball_", "l2_ball_", "simplex_"):
        with pytest.raises(ValueError, match=f"^{name}: dim=2 must name dimensions"):
            getattr(optim, name)(torch.ones(3, 4), dim=2)
