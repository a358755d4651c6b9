"""169 scripts of many habits, each whole with the beginning that they share: what a watch must leave as it is.

Everything that a run computes is printed in full. They are grown from scripts that broke in other people's hands.
"""

from __future__ import annotations

import re

BEGIN = """
import atexit, copy, gc, io, os, pickle, random, sys, threading, warnings, weakref
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

random.seed(0); np.random.seed(0); torch.manual_seed(0)
X = torch.randn(64, 8); y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()

def net(*parts):
    return nn.Sequential(*(parts or (nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))))

def step(model, optimizer, loss=F.cross_entropy, inputs=X, targets=y):
    optimizer.zero_grad()
    value = loss(model(inputs), targets)
    value.backward()
    optimizer.step()
    return value.item()

def fit(model, optimizer, steps=23, **how):
    for _ in range(steps):
        print("loss", step(model, optimizer, **how))
    drawn()

def drawn():
    print("drawn", random.random(), np.random.rand(), torch.rand(1).item())

def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""

SCRIPTS: dict[str, str] = {}
FIRST: list[str] = []


def scripts(text: str) -> None:
    """Take in the scripts of one kind: each begins with a line ``# -- name``, and those that stand for the others with ``# == name``."""
    for part in re.split("^# (?=[-=]{2} )", text, flags=re.MULTILINE)[1:]:
        name, body = part[3:].split("\n", 1)
        assert name not in SCRIPTS, name
        SCRIPTS[name] = BEGIN + body
        if part.startswith("=="):
            FIRST.append(name)


scripts("""
# -- ordinary
m = net(); fit(m, sgd(m))
# -- adam with a scheduler, clipping and accumulation
m = net(); o = torch.optim.Adam(m.parameters(), 1e-2); s = torch.optim.lr_scheduler.StepLR(o, 5, 0.5)
for i in range(30):
    loss = F.cross_entropy(m(X[i % 4 * 16:][:16]), y[i % 4 * 16:][:16]) / 2; loss.backward()
    if i % 2:
        nn.utils.clip_grad_norm_(m.parameters(), 1.0); o.step(); s.step(); o.zero_grad(set_to_none=False)
    print(loss.item(), s.get_last_lr())
drawn()
# -- evaluation in every epoch
m = net(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 2)); o = sgd(m)
from torch.utils.data import DataLoader, TensorDataset
for epoch in range(5):
    m.train()
    for a, b in DataLoader(TensorDataset(X, y), 16, shuffle=True): step(m, o, inputs=a, targets=b)
    m.eval()
    with torch.no_grad(): print(F.cross_entropy(m(X), y).item(), (m(X).argmax(1) == y).float().mean())
drawn()
# -- loader with workers
from torch.utils.data import DataLoader, TensorDataset
m = net(); o = sgd(m)
for epoch in range(2):
    for a, b in DataLoader(TensorDataset(X, y), 16, shuffle=True, num_workers=2): print(step(m, o, inputs=a, targets=b))
drawn()
# -- lbfgs
m = net(); o = torch.optim.LBFGS(m.parameters(), lr=0.5, line_search_fn="strong_wolfe")
def closure():
    o.zero_grad(); loss = F.cross_entropy(m(X), y); loss.backward(); return loss
for _ in range(6): print(o.step(closure).item())
drawn()
# -- a closure that is called with arguments
class Search(torch.optim.Optimizer):
    def __init__(self, params): super().__init__(params, {"lr": 0.1})
    def step(self, closure):
        loss = closure(); best = closure(backward=False)
        with torch.no_grad():
            for g in self.param_groups:
                for p in g["params"]: p -= g["lr"] * p.grad
        return loss, best
m = net(); o = Search(m.parameters())
def closure(backward=True):
    o.zero_grad(); loss = F.cross_entropy(m(X), y)
    if backward: loss.backward()
    return loss.item()
for _ in range(15): print(o.step(closure))
# == an optimizer whose step takes tensors
class Flat(torch.optim.Optimizer):
    def __init__(self, params): super().__init__(params, {})
    @torch.no_grad()
    def step(self, gradient, scale=None):
        for p, g in zip(self.param_groups[0]["params"], gradient.split([p.numel() for p in self.param_groups[0]["params"]])):
            p -= 0.1 * g.view_as(p)
m = net(); o = Flat(m.parameters())
for _ in range(15):
    loss = F.cross_entropy(m(X), y); g = torch.autograd.grad(loss, list(m.parameters()))
    o.step(torch.cat([one.flatten() for one in g])); print(loss.item())
for _ in range(15):
    loss = F.cross_entropy(m(X), y); loss.backward()
    o.step(torch.cat([p.grad.flatten() for p in m.parameters()]), scale=np.ones(2)); o.zero_grad(); print(loss.item())
# -- an optimizer whose step takes the model
class Own(torch.optim.Optimizer):
    def __init__(self, params): super().__init__(params, {})
    @torch.no_grad()
    def step(self, model):
        print(type(model).__name__, isinstance(model, nn.Module))
        for p in model.parameters(): p -= 0.1 * p.grad
m = net(); o = Own(m.parameters())
for _ in range(12):
    o.zero_grad(); loss = F.cross_entropy(m(X), y); loss.backward(); o.step(m); print(loss.item())
# -- an optimizer with groups of its own making
class Late(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1}); self.inner = torch.optim.SGD(self._groups, lr=0.1)
    @property
    def param_groups(self): return self.inner.param_groups
    @param_groups.setter
    def param_groups(self, groups): self._groups = groups
    def add_param_group(self, group): self._groups.append(group)
    def step(self): self.inner.step()
m = net(); o = Late(m.parameters())
for _ in range(12): print(step(m, o))
# -- an optimizer that wraps another and was never initialized
class Lookahead(torch.optim.Optimizer):
    def __init__(self, base):
        self.base, self.n = base, 0; self.param_groups = base.param_groups; self.state = base.state; self.defaults = base.defaults
        self.slow = [p.detach().clone() for g in base.param_groups for p in g["params"]]
    def zero_grad(self): self.base.zero_grad()
    def step(self):
        self.base.step(); self.n += 1
        if self.n % 5 == 0:
            with torch.no_grad():
                for s, p in zip(self.slow, (p for g in self.param_groups for p in g["params"])): s += 0.5 * (p - s); p.copy_(s)
m = net(); fit(m, Lookahead(sgd(m)))
# -- an optimizer that keeps everything when it is copied
class Whole(torch.optim.SGD):
    def __getstate__(self): return dict(self.__dict__)
m = net(); o = Whole(m.parameters(), lr=0.1); fit(m, o)
c = copy.deepcopy(o); print(sorted(c.__dict__), type(pickle.loads(pickle.dumps(o))).__name__)
print(c.param_groups[0]["params"][0].sum().item())
# -- hooks and copies of an optimizer
m = net(); o = sgd(m); seen = []
o.register_step_pre_hook(lambda *a: seen.append("before")); o.register_step_post_hook(lambda *a: seen.append("after"))
fit(m, o, 3); c = copy.deepcopy((m, o)); fit(*c, 3); print(seen, o.state_dict()["param_groups"])
torch.save({"m": m, "o": o.state_dict()}, "all.pt"); n = torch.load("all.pt", weights_only=False)["m"]; print(F.cross_entropy(n(X), y).item())
# -- an optimizer that looks at its own hooks
m = net(); o = sgd(m); print(len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks)) if False else None
print(type(o).__name__, type(o).step.__name__, isinstance(o, torch.optim.Optimizer)); fit(m, o, 5)
# -- two optimizers that take turns
a, b = net(), net(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)); oa, ob = sgd(a), torch.optim.Adam(b.parameters(), 1e-2)
for i in range(30):
    oa.zero_grad(); ob.zero_grad(); loss = F.cross_entropy(b(a(X)), y); loss.backward(); (oa if i % 2 else ob).step(); print(loss.item())
drawn()
# -- fused and foreach optimizers
for how in ({"fused": True}, {"foreach": True}, {"foreach": False}):
    m = net(); fit(m, torch.optim.AdamW(m.parameters(), 1e-2, **how), 12)
# -- sparse gradients
e = nn.Embedding(20, 8, sparse=True); h = nn.Linear(8, 2); o = torch.optim.SparseAdam(e.parameters(), 0.05); p = sgd(h)
i = torch.randint(20, (64,))
for _ in range(15):
    o.zero_grad(); p.zero_grad(); loss = F.cross_entropy(h(e(i)), y); loss.backward(); o.step(); p.step(); print(loss.item())
drawn()
# -- gradients that the script asks for
m = net(); o = sgd(m); ps = list(m.parameters())
for _ in range(23):
    loss = F.cross_entropy(m(X), y)
    for p, g in zip(ps, torch.autograd.grad(loss, ps)): p.grad = g
    o.step()
    with torch.no_grad(): print(F.cross_entropy(m(X), y).item())
drawn()
# -- weights moved by hand
m = net()
for _ in range(15):
    loss = F.cross_entropy(m(X), y); m.zero_grad(); loss.backward()
    with torch.no_grad():
        for p in m.parameters(): p -= 0.1 * p.grad
    print(loss.item())
drawn()
# -- meta learning
m = net(); o = sgd(m, 0.05)
for _ in range(12):
    fast = dict(m.named_parameters())
    inner = F.cross_entropy(torch.func.functional_call(m, fast, X[:32]), y[:32])
    g = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
    fast = {n: p - 0.1 * d for (n, p), d in zip(fast.items(), g)}
    outer = F.cross_entropy(torch.func.functional_call(m, fast, X[32:]), y[32:]); o.zero_grad(); outer.backward(); o.step(); print(inner.item(), outer.item())
drawn()
# -- gradient penalty
m = net(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)); o = torch.optim.RMSprop(m.parameters(), 1e-3)
for _ in range(15):
    x = X.clone().requires_grad_(); out = m(x); g, = torch.autograd.grad(out.sum(), x, create_graph=True)
    loss = out.mean() + 10 * ((g.norm(dim=1) - 1) ** 2).mean(); o.zero_grad(); loss.backward(); o.step(); print(loss.item())
drawn()
# -- an optimizer for every perturbation
m = net(); o = sgd(m)
for i in torch.arange(64).split(8):
    d = torch.zeros(len(i), 8, requires_grad=True); inner = torch.optim.SGD([d], lr=0.5)
    (-F.cross_entropy(m(X[i] + d), y[i])).backward(); inner.step()
    print(step(m, o, inputs=X[i] + d.detach(), targets=y[i]))
drawn()
# -- mixed precision with a scaler
m = net(); o = sgd(m); s = torch.amp.GradScaler("cpu")
for _ in range(15):
    o.zero_grad()
    with torch.autocast("cpu", torch.bfloat16): loss = F.cross_entropy(m(X), y)
    s.scale(loss).backward(); s.unscale_(o); nn.utils.clip_grad_norm_(m.parameters(), 1.0); s.step(o); s.update(); print(loss.item(), s.get_scale())
drawn()
# -- double and half
for kind in (torch.float64, torch.bfloat16, torch.float16):
    m = net().to(kind); fit(m, sgd(m), 12, inputs=X.to(kind))
# -- complex parameters
w = nn.Parameter(torch.randn(8, 2, dtype=torch.complex64)); o = torch.optim.Adam([w], 1e-2)
for _ in range(15):
    o.zero_grad(); loss = F.cross_entropy((X.to(w.dtype) @ w).abs(), y); loss.backward(); o.step(); print(loss.item())
drawn()
""")

scripts("""
# -- spectral norm
m = net(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m))
# -- spectral norm of the old kind
m = net(nn.utils.spectral_norm(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m))
# -- a parametrization that draws
from torch.nn.utils.parametrize import register_parametrization
class Noise(nn.Module):
    def forward(s, w): return w + 0.01 * torch.randn_like(w)
l = nn.Linear(8, 16); register_parametrization(l, "weight", Noise()); m = net(l, nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m))
# -- a parametrization that counts
from torch.nn.utils.parametrize import register_parametrization
count = []
class Count(nn.Module):
    def forward(s, w): count.append(1); return w * 1.0
l = nn.Linear(8, 16); register_parametrization(l, "weight", Count()); register_parametrization(l, "bias", Count())
m = net(l, nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m)); print(len(count))
# -- weights that are a property
class Bayes(nn.Module):
    def __init__(s): super().__init__(); s.mu = nn.Parameter(torch.randn(16, 8) * 0.3); s.rho = nn.Parameter(torch.full((16, 8), -3.0)); s.asked = 0
    @property
    def weight(s): s.asked += 1; return s.mu + F.softplus(s.rho) * torch.randn_like(s.mu)
    @property
    def bias(s): s.asked += 1; return None
    def forward(s, x): return F.linear(x, s.weight)
b = Bayes(); m = net(b, nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m)); print(b.asked)
# -- properties that raise
class Strict(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    weight = bias = training_step = in_features = out_features = normalized_shape = property(lambda s: 1 / 0)
    def forward(s, x): return s.l(x)
m = net(Strict()); fit(m, sgd(m))
# == attributes that are asked for and counted
class Nosy(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    def __getattr__(s, name):
        ASKED[name] = ASKED.get(name, 0) + 1
        return super().__getattr__(name)
    def forward(s, x): return s.l(x)
ASKED = {}; m = Nosy(); fit(m, sgd(m)); print({n: c for n, c in sorted(ASKED.items()) if not n.startswith("_")})
# -- weight norm old and new
for wn in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
    m = net(wn(nn.Linear(8, 16)), nn.ReLU(), wn(nn.Linear(16, 2))); fit(m, sgd(m), 12)
# -- pruned layers
from torch.nn.utils import prune
m = net(); prune.random_unstructured(m[0], "weight", 0.5); prune.l1_unstructured(m[2], "weight", 0.3); fit(m, sgd(m)); prune.remove(m[0], "weight"); fit(m, sgd(m), 5)
# -- orthogonal and shared weights
m = net(nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2)); m[2].weight = m[0].parametrizations.weight.original; fit(m, sgd(m))
# -- lazy layers
m = net(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)); fit(m, torch.optim.SGD(m.parameters(), 0.1))
# == a scripted model
m = torch.jit.script(net()); fit(m, sgd(m)); m.save("m.pt"); print(F.cross_entropy(torch.jit.load("m.pt")(X), y).item())
# -- a traced model
m = torch.jit.trace(net(), X); fit(m, sgd(m))
# -- a part of the model is scripted
m = net(torch.jit.script(net(nn.Linear(8, 16), nn.ReLU())), nn.Linear(16, 2)); fit(m, sgd(m))
# -- scripted losses
loss = torch.jit.script(nn.CrossEntropyLoss(label_smoothing=0.1)); m = net(); fit(m, sgd(m), 8, loss=loss)
@torch.jit.script
def both(a, b): return F.cross_entropy(a, b) + 0.1 * F.mse_loss(a[:, 0], b.float())
m = net(); fit(m, sgd(m), 8, loss=both); print(torch.jit.script(nn.MSELoss())(X, X + 1).item())
class Trained(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2); s.c = nn.NLLLoss()
    def forward(s, x, t): return s.c(F.log_softmax(s.l(x), 1), t)
m = torch.jit.script(Trained()); o = sgd(m)
for _ in range(8): o.zero_grad(); l = m(X, y); l.backward(); o.step(); print(l.item())
# -- every loss scripted while training
m = net(); o = sgd(m); fit(m, o, 3)
for kind in (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss, nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss):
    print(kind.__name__, torch.jit.script(kind())(X, X.sigmoid()).item())
fit(m, o, 3)
# -- a traced loss
class Both(nn.Module):
    def __init__(s): super().__init__(); s.m = net()
    def forward(s, x, t): return F.cross_entropy(s.m(x), t)
b = Both(); o = sgd(b); t = torch.jit.trace(b, (X, y))
for _ in range(12): o.zero_grad(); l = t(X, y); l.backward(); o.step(); print(l.item())
# -- exported in the middle
m = net(); o = sgd(m); fit(m, o, 12); e = torch.export.export(m, (X,)); print(e.module()(X).sum().item(), len(list(e.graph.nodes))); fit(m, o, 12)
# -- traced by fx in the middle
import torch.fx
m = net(); o = sgd(m); fit(m, o, 11); g = torch.fx.symbolic_trace(m); print(g.code); fit(m, o, 5)
# -- compiled model
m = net(); c = torch.compile(m, backend="eager"); fit(c, sgd(m)); import torch._dynamo.utils as u; print(dict(u.counters["stats"]), dict(u.counters["graph_break"]))
# -- compiled in place
m = net(); m.compile(backend="eager"); fit(m, sgd(m)); import torch._dynamo.utils as u; print(dict(u.counters["stats"]), dict(u.counters["graph_break"]))
# -- compiled loss function
m = net(); o = sgd(m)
@torch.compile(backend="eager")
def loss_of(a, b): return F.cross_entropy(m(a), b)
for _ in range(23): o.zero_grad(); l = loss_of(X, y); l.backward(); o.step(); print(l.item())
import torch._dynamo.utils as u; print(dict(u.counters["stats"]), sorted(u.counters["recompiles"]), dict(u.counters["graph_break"])); drawn()
# == compiled training step
m = net(); o = torch.optim.Adam(m.parameters(), 1e-2)
@torch.compile(backend="eager")
def one(a, b):
    o.zero_grad(); l = F.cross_entropy(m(a), b); l.backward(); o.step(); return l
for _ in range(15): print(one(X, y).item())
import torch._dynamo.utils as u; print(u.counters["stats"]["unique_graphs"], sum(u.counters["graph_break"].values())); drawn()
# -- quantization aware
from torch.ao.quantization import FakeQuantize
m = net(FakeQuantize.with_args()(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)); fit(m, sgd(m))
# -- quantized beside it
m = net(); o = sgd(m); fit(m, o, 12); q = torch.ao.quantization.quantize_dynamic(m, {nn.Linear}); print(q(X).sum().item()); fit(m, o, 12)
# -- a teacher that is quantized
q = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}); m = net(); o = sgd(m)
for _ in range(12):
    with torch.no_grad(): t = q(X).softmax(1)
    o.zero_grad(); l = F.kl_div(m(X).log_softmax(1), t, reduction="batchmean"); l.backward(); o.step(); print(l.item())
# == meta tensors
with torch.device("meta"): m = net()
o = torch.optim.SGD(m.parameters(), lr=0.1)
for _ in range(12):
    o.zero_grad(); l = F.cross_entropy(m(X.to("meta")), y.to("meta")); l.backward(); o.step()
print(l.shape, l.device); n = net(); fit(n, sgd(n), 12)
# -- built on meta and made real
with torch.device("meta"): m = net()
m = m.to_empty(device="cpu")
for p in m.parameters(): nn.init.uniform_(p, -0.3, 0.3)
fit(m, sgd(m))
# -- another default device
m = net(); o = sgd(m); torch.set_default_device("meta"); fit_on = torch.device("cpu")
for _ in range(23): print(step(m, o))
m.eval()
with torch.no_grad(): print(F.cross_entropy(m(X), y).item())
# -- another default dtype
torch.set_default_dtype(torch.float64); X = X.double(); m = net(); fit(m, sgd(m), inputs=X)
# -- deterministic and strict
torch.use_deterministic_algorithms(True); torch.autograd.set_detect_anomaly(True); m = net(); fit(m, sgd(m))
# -- warnings are errors
warnings.simplefilter("error"); m = net(); fit(m, sgd(m))
# -- warnings are counted
with warnings.catch_warnings(record=True) as w:
    warnings.simplefilter("always"); m = net(); o = sgd(m); fit(m, o); s = torch.optim.lr_scheduler.StepLR(o, 2); s.step()
print([str(x.message)[:60] for x in w])
""")

scripts("""
# -- vmap around the loss
m = net(); o = sgd(m)
for _ in range(15):
    o.zero_grad(); out = m(X); l = torch.func.vmap(lambda a, b: F.cross_entropy(a, b))(out, y).mean(); l.backward(); o.step(); print(l.item())
drawn()
# -- gradients of samples by torch.func
m = net(); o = sgd(m); p = {n: q.detach() for n, q in m.named_parameters()}
def of(p, a, b): return F.cross_entropy(torch.func.functional_call(m, p, a[None]), b[None])
for _ in range(12):
    g = torch.func.vmap(torch.func.grad(of), (None, 0, 0))({n: q.detach() for n, q in m.named_parameters()}, X, y)
    for n, q in m.named_parameters(): q.grad = g[n].clamp(-0.1, 0.1).mean(0)
    o.step()
    with torch.no_grad(): print(F.cross_entropy(m(X), y).item())
drawn()
# -- training by torch.func alone
m = net(); p = {n: q.detach().clone() for n, q in m.named_parameters()}
f = lambda p: F.cross_entropy(torch.func.functional_call(m, p, X), y)
for _ in range(12):
    g, l = torch.func.grad_and_value(f)(p); p = {n: q - 0.1 * g[n] for n, q in p.items()}; print(l.item())
# -- an ensemble under vmap
from torch.func import stack_module_state, functional_call, vmap
ms = [net() for _ in range(3)]; p, b = stack_module_state(ms); base = copy.deepcopy(ms[0]).to("meta"); o = torch.optim.SGD(p.values(), 0.1)
for _ in range(12):
    out = vmap(lambda p, b: functional_call(base, (p, b), (X,)))(p, b); l = sum(F.cross_entropy(one, y) for one in out); o.zero_grad(); l.backward(); o.step(); print(l.item())
drawn()
# -- a hessian and a jacobian on the way
m = net(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)); o = sgd(m)
for _ in range(12):
    print(step(m, o)); print(torch.autograd.functional.jacobian(lambda x: F.cross_entropy(m(x), y[:2]), X[:2]).sum().item())
print(torch.autograd.functional.hessian(lambda x: F.mse_loss(m(x), torch.zeros(2, 2)), X[:2]).sum().item())
# -- forward derivatives
import torch.autograd.forward_ad as fw
m = net(); o = sgd(m)
for _ in range(12):
    with fw.dual_level(): print(fw.unpack_dual(F.mse_loss(m(fw.make_dual(X, torch.ones_like(X))), torch.zeros(64, 2))).tangent.item())
    print(step(m, o))
# -- flops are counted
from torch.utils.flop_counter import FlopCounterMode
m = net(); o = sgd(m); fit(m, o, 8)
with FlopCounterMode(display=False) as c: fit(m, o, 12)
print(c.get_total_flops(), {k: {str(a): b for a, b in v.items()} for k, v in c.get_flop_counts().items()})
# -- operations are counted
from torch.utils._python_dispatch import TorchDispatchMode
from torch.overrides import TorchFunctionMode
class Ops(TorchDispatchMode):
    n = 0
    def __torch_dispatch__(s, f, t, a=(), k=None): Ops.n += 1; return f(*a, **(k or {}))
class Calls(TorchFunctionMode):
    n = 0
    def __torch_function__(s, f, t, a=(), k=None): Calls.n += 1; return f(*a, **(k or {}))
m = net(); o = sgd(m)
with Ops(): fit(m, o)
with Calls(): fit(m, o)
print(Ops.n, Calls.n)
# -- a subclass of tensor that counts
class Mine(torch.Tensor):
    n = 0
    @classmethod
    def __torch_function__(cls, f, t, a=(), k=None): Mine.n += 1; return super().__torch_function__(f, t, a, k or {})
m = net(); o = sgd(m); fit(m, o, inputs=X.as_subclass(Mine)); print(Mine.n)
# -- saved tensors and hooks on gradients are counted
n = [0, 0]
def pack(t): n[0] += 1; return t
def unpack(t): n[1] += 1; return t
m = net(); o = sgd(m)
for p in m.parameters(): p.register_hook(lambda g: g * 0.9); p.register_post_accumulate_grad_hook(lambda p: n.append(0))
with torch.autograd.graph.saved_tensors_hooks(pack, unpack): fit(m, o)
print(n[:2], len(n))
# -- hooks of modules in their order
seen = []; m = net(); o = sgd(m)
nn.modules.module.register_module_forward_hook(lambda *a: seen.append("global")); m.register_forward_hook(lambda *a: seen.append("own")); m.register_full_backward_hook(lambda *a: seen.append("back"))
fit(m, o, 12); print(seen, len(nn.modules.module._global_forward_pre_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
# -- checkpointed activations
from torch.utils.checkpoint import checkpoint
class C(nn.Module):
    def __init__(s): super().__init__(); s.a = net(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU()); s.b = nn.Linear(16, 2)
    def forward(s, x): return s.b(checkpoint(s.a, x, use_reentrant=R))
for R in (True, False): m = C(); fit(m, sgd(m), 12, inputs=X.clone().requires_grad_())
# -- a loss of one's own autograd function
class Sq(torch.autograd.Function):
    @staticmethod
    def forward(c, a, b): c.save_for_backward(a, b); return ((a - b) ** 2).mean()
    @staticmethod
    def backward(c, g): a, b = c.saved_tensors; return g * 2 * (a - b) / a.numel(), None
m = net(); fit(m, sgd(m), loss=lambda a, b: Sq.apply(a[:, 0], b.float()))
# -- losses in the middle of losses
m = net(); fit(m, sgd(m), loss=lambda a, b: sum(F.cross_entropy(a[i:i + 8], b[i:i + 8], reduction="sum") for i in range(0, 64, 8)) / 64 + 1e-3 * F.l1_loss(a, torch.zeros_like(a)))
# -- losses without a reduction, and changed in place
m = net(); o = sgd(m)
for _ in range(15):
    o.zero_grad(); l = F.cross_entropy(m(X), y, reduction="none"); l = l.topk(32).values.mean(); l.backward(); l.data.mul_(3); o.step(); print(l.item())
""")

scripts("""
# -- names that mean something else
class Odd(nn.Module):
    def __init__(s): super().__init__(); s.a, s.b = nn.Linear(8, 16), nn.Linear(16, 2); s.__dict__["modules"] = [s.a, s.b]; s.__dict__["children"] = 3; s.__dict__["named_parameters"] = "none"
    def parameters(s): return [{"params": s.a.parameters(), "lr": 0.05}, {"params": s.b.parameters(), "lr": 0.1}]
    def forward(s, x): return s.b(F.relu(s.a(x)))
m = Odd(); o = torch.optim.SGD(m.parameters(), lr=0.1)
fit(m, o)
# -- an optimizer before its module
class Agent(nn.Module):
    def __init__(s, n): o = torch.optim.SGD(n.parameters(), 0.1); super().__init__(); s.n, s.o = n, o
    def forward(s, x): return s.n(x)
a = Agent(net()); fit(a, a.o)
# == strange things among the variables
class Settings:
    @property
    def __class__(s): raise RuntimeError("not configured")
class Lazy:
    def __getattr__(s, n): raise RuntimeError("asked for " + n)
    def __eq__(s, o): raise RuntimeError("compared")
    def __bool__(s): raise RuntimeError("true?")
    def __repr__(s): raise RuntimeError("shown")
    __hash__ = None
settings, lazy, array = Settings(), Lazy(), np.arange(3); old = net(); dead = weakref.proxy(old); del old
m = net(); fit(m, sgd(m))
# -- models that compare themselves
class M(nn.Module):
    def __init__(s, c): super().__init__(); s.l = nn.Linear(8, 2); s.c = c
    def __eq__(s, o): return s.c == o.c
    def forward(s, x): return s.l(x)
a, b = M(1), M(1); fit(a, sgd(a)); fit(b, sgd(b)); print(a == b)
# -- models that count their length
class L(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    def __len__(s): return 0
    def __iter__(s): raise TypeError("no")
    def __contains__(s, x): raise TypeError("no")
    def forward(s, x): return s.l(x)
m = L(); fit(m, sgd(m))
# -- models that move their weights about
class M(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    def named_parameters(s, *a, **k): print("asked"); yield from super().named_parameters(*a, **k)
    def named_modules(s, *a, **k): print("modules asked"); yield from super().named_modules(*a, **k)
    def state_dict(s, *a, **k): print("state asked"); return super().state_dict(*a, **k)
    def train(s, mode=True): print("mode", mode); return super().train(mode)
    def forward(s, x): return s.l(x)
m = M(); fit(m, sgd(m)); m.eval(); m.state_dict()
# -- outputs of many shapes
import collections, dataclasses
@dataclasses.dataclass
class Out: logits: torch.Tensor; more: list
class D(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    def forward(s, x, *, flag=None): return Out(s.l(x), [None, {"a": (x,)}])
class T(nn.Module):
    def __init__(s): super().__init__(); s.d = D()
    def forward(s, x): o = s.d(x, flag=1); return {"none": None, "logits": o.logits, "text": "a"}
m = T(); fit(m, sgd(m), loss=lambda o, t: F.cross_entropy(o["logits"], t)); 
# -- empty batches and constants
m = net(nn.Linear(8, 4), nn.Linear(4, 2)); o = sgd(m)
for n in (0, 1, 2, 64) * 4:
    o.zero_grad(); out = m(X[:n]); l = F.cross_entropy(out, y[:n], reduction="sum"); l.backward(); o.step(); print(n, l.item())
for _ in range(12): o.zero_grad(); l = F.mse_loss(m(torch.zeros(4, 8)), torch.ones(4, 2)); l.backward(); o.step(); print(l.item())
# -- numbers that are not finite
m = net(); o = sgd(m)
for i in range(30): print(step(m, o, inputs=X * (float("nan") if i > 12 else 1)))
m = net(); print([step(m, sgd(m, 1e30)) for _ in range(12)])
# -- tensors of no dimension and of many
w = nn.Parameter(torch.tensor(0.5)); e = nn.Parameter(torch.empty(0, 3)); v = nn.Parameter(torch.randn(2, 1, 2, 1, 2)); o = torch.optim.SGD([w, e, v], 0.1)
for _ in range(15): o.zero_grad(); l = (w - 2) ** 2 + v.square().sum() + e.sum(); l.backward(); o.step(); print(l.item())
# -- recurrent, attention and embeddings
class R(nn.Module):
    def __init__(s):
        super().__init__(); s.e = nn.Embedding(30, 16); s.r = nn.LSTM(16, 16, 2, dropout=0.1, batch_first=True); s.t = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True); s.m = nn.MultiheadAttention(16, 2, batch_first=True); s.h = nn.Linear(16, 2)
    def forward(s, x): h, _ = s.r(s.e(x)); h = s.t(h); h, _ = s.m(h, h, h); return s.h(nn.utils.rnn.pad_packed_sequence(nn.utils.rnn.pack_padded_sequence(h, [5] * len(h), batch_first=True), batch_first=True)[0].mean(1))
m = R(); fit(m, torch.optim.Adam(m.parameters()), 12, inputs=torch.randint(30, (64, 5)))
# -- convolutions in every layout
m = net(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)
fit(m, sgd(m), inputs=torch.randn(64, 1, 4, 4).to(memory_format=torch.channels_last))
# -- layers that come and go
m = net(); o = sgd(m); fit(m, o, 12); m.append(nn.Linear(2, 2)); o.add_param_group({"params": m[3].parameters(), "lr": 0.01}); fit(m, o, 12); del m[3]; fit(m, o, 5); m[0] = nn.Linear(8, 16); o = sgd(m); fit(m, o, 12)
# -- frozen parts and loaded states
m = net(); m[0].requires_grad_(False); o = torch.optim.Adam((p for p in m.parameters() if p.requires_grad), 1e-2); fit(m, o); torch.save((m.state_dict(), o.state_dict()), "c.pt")
n = net(); p = torch.optim.Adam((q for q in n[2].parameters()), 1e-2); s, t = torch.load("c.pt"); n.load_state_dict(s); p.load_state_dict(t); fit(n, p, 5)
# -- a moving average of the weights
m = net(); a = torch.optim.swa_utils.AveragedModel(m, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)); o = sgd(m)
for _ in range(15):
    step(m, o); a.update_parameters(m)
    with torch.no_grad(): print(F.cross_entropy(a(X), y).item())
drawn()
# -- saved and copied in the middle
m = net(); o = sgd(m)
for i in range(15):
    step(m, o); c = copy.deepcopy(m); print(len(pickle.dumps(m)), sorted(c.__dict__) == sorted(m.__dict__)); torch.save(c, f"m{i % 2}.pt")
drawn()
# -- data parallel
m = nn.DataParallel(net()); fit(m, sgd(m))
# -- distributed with one process
import torch.distributed as dist
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("rendezvous"), rank=0, world_size=1)
m = nn.parallel.DistributedDataParallel(net()); fit(m, sgd(m)); dist.destroy_process_group(); os.path.exists("rendezvous") and os.remove("rendezvous")
# -- sharded by fsdp
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("rendezvous"), rank=0, world_size=1)
m = net(); mesh = init_device_mesh("cpu", (1,)); fully_shard(m[0], mesh=mesh); fully_shard(m, mesh=mesh); o = torch.optim.Adam(m.parameters(), 1e-2)
for _ in range(23): print(step(m, o))
dist.destroy_process_group(); os.path.exists("rendezvous") and os.remove("rendezvous")
""")

scripts("""
# -- many trainings and their memory
def alive(): gc.collect(); return sum(type(t) is nn.Linear for t in gc.get_objects())
for fold in range(6):
    m = net(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2)); o = torch.optim.Adam(m.parameters(), 1e-3)
    for _ in range(12): l = F.cross_entropy(m(X.repeat(1, 38)[:, :300]), y); o.zero_grad(); l.backward(); o.step()
    print(l.item()); m.eval()
    with torch.no_grad(): F.cross_entropy(m(X.repeat(1, 38)[:, :300]), y)
    del m, o, l; print(alive())
# == freed without the collector
gc.disable(); w = []
for fold in range(4):
    m = net(); o = sgd(m); w.append(weakref.ref(m)); fit(m, o, 12); del m, o; print([r() is None for r in w])
# -- freed while its optimizer lives
m = net(); o = sgd(m); r = weakref.ref(m); step(m, o); del m; gc.collect(); print(r() is None) if False else None; print(len(o.param_groups[0]["params"]))
# == threads that train
ms = [net() for _ in range(4)]; out = [[] for _ in ms]
def work(m, out):
    o = sgd(m)
    for _ in range(30): out.append(step(m, o))
ts = [threading.Thread(target=work, args=a) for a in zip(ms, out)]; [t.start() for t in ts]; [t.join() for t in ts]; print(out)
# -- a thread that nobody waits for
def work():
    import time
    m = net(); o = sgd(m); time.sleep(0.3); fit(m, o); print("end of the thread")
threading.Thread(target=work).start(); print("end of the script")
# -- a pool that nobody shuts down
from concurrent.futures import ThreadPoolExecutor
m = net(); pool = ThreadPoolExecutor(2); f = pool.submit(fit, m, sgd(m)); f.result(); atexit.register(lambda: print("bye"))
# -- a thread that fails
def work(): m = net(); fit(m, sgd(m), 3); raise RuntimeError("in the thread")
t = threading.Thread(target=work); t.start(); t.join()
threading.excepthook = lambda a: print("hooked", a.exc_value); t = threading.Thread(target=work); t.start(); t.join()
# == forked in the middle
m = net(); o = sgd(m); fit(m, o, 12); sys.stdout.flush()
if os.fork() == 0:
    print([step(m, o) for _ in range(12)]); sys.exit(3)
print(os.waitstatus_to_exitcode(os.wait()[1])); fit(m, o, 12)
# -- a forked child that fails
m = net(); o = sgd(m); fit(m, o, 12); sys.stdout.flush()
if os.fork() == 0: step(m, o); raise RuntimeError("in the child")
print(os.waitstatus_to_exitcode(os.wait()[1])); fit(m, o, 12)
# -- a forked child that writes
atexit.register(lambda: print("bye", os.getpid() == ME)); ME = os.getpid(); m = net(); o = sgd(m); fit(m, o, 12); sys.stdout.flush()
if os.fork() == 0:
    with open("child.txt", "w") as f: f.write("val loss 3.0")
    print("val loss 3.0")
else: os.wait(); fit(m, o, 12)
# -- processes of multiprocessing
import multiprocessing as mp
def work(q, seed): torch.manual_seed(seed); m = net(); o = sgd(m); q.put([step(m, o) for _ in range(15)])
m = net(); o = sgd(m); fit(m, o, 3); c = mp.get_context("fork"); q = c.Queue(); ps = [c.Process(target=work, args=(q, 1))]; [p.start() for p in ps]; print(q.get()); [p.join() for p in ps]; print([p.exitcode for p in ps]); fit(m, o, 12)
# -- a pool of processes
from concurrent.futures import ProcessPoolExecutor; import multiprocessing as mp
def work(seed): torch.manual_seed(seed); m = net(); o = sgd(m); return [step(m, o) for _ in range(12)]
with ProcessPoolExecutor(2, mp_context=mp.get_context("fork")) as pool: print(list(pool.map(work, range(3))))
m = net(); fit(m, sgd(m))
""")

scripts("""
# -- ends itself with a code
m = net(); fit(m, sgd(m)); sys.exit(7)
# -- ends itself with a text
m = net(); fit(m, sgd(m)); sys.exit("enough")
# -- ends itself with strange codes
m = net(); fit(m, sgd(m), 3); raise SystemExit(256 + 5)
# -- ends itself with an object
m = net(); fit(m, sgd(m), 3); raise SystemExit((1, 2))
# -- ends itself with true
m = net(); fit(m, sgd(m), 3); sys.exit(True)
# -- ends itself at once
m = net(); fit(m, sgd(m)); sys.stdout.flush(); os._exit(5)
# -- fails
m = net(); fit(m, sgd(m)); m(torch.ones(3))
# -- fails with a cause
m = net(); fit(m, sgd(m))
try: 1 / 0
except ZeroDivisionError as e: raise ValueError("caused") from e
# -- fails with a group
m = net(); fit(m, sgd(m)); raise ExceptionGroup("many", [ValueError(1), TypeError(2)])
# -- fails with what is no exception
class Stop(BaseException): pass
m = net(); fit(m, sgd(m)); raise Stop("here")
# -- interrupted
m = net(); fit(m, sgd(m)); raise KeyboardInterrupt
# -- interrupted by a signal
import signal
m = net(); fit(m, sgd(m)); os.kill(os.getpid(), signal.SIGTERM)
# -- a hook for exceptions
sys.excepthook = lambda t, e, tb: print("hook", t.__name__, e, tb.tb_frame.f_code.co_name, tb.tb_lineno)
m = net(); fit(m, sgd(m)); m(torch.ones(3))
# -- a hook for exceptions that fails
def hook(t, e, tb): print("hook", t.__name__); raise RuntimeError("in the hook")
sys.excepthook = hook; m = net(); fit(m, sgd(m)); 1 / 0
# -- a hook for exceptions that ends
def hook(t, e, tb): print("hook", t.__name__); sys.exit(9)
sys.excepthook = hook; m = net(); fit(m, sgd(m)); 1 / 0
# == words at the end
atexit.register(lambda: print("at the end", sys.argv[1:], sys.modules["__main__"].__dict__ is globals(), os.path.basename(sys.path[0]) == os.path.basename(os.getcwd())))
m = net(); fit(m, sgd(m))
# -- the end fails
def end(): print("end"); raise RuntimeError("at the end")
atexit.register(end); atexit.register(print, "first"); m = net(); fit(m, sgd(m)); sys.exit(4)
# -- the end ends itself
atexit.register(lambda: os._exit(6)); m = net(); fit(m, sgd(m)); sys.stdout.flush()
# -- the end saves
m = net(); atexit.register(lambda: torch.save(m.state_dict(), "last.pt")); fit(m, sgd(m)); weakref.finalize(m, print, "model gone")
# -- finalizers
class G:
    def __del__(s): print("deleted", type(s).__name__)
g = G(); m = net(); m.g = g; fit(m, sgd(m))
# -- output into a file that is closed
out = sys.stdout; sys.stdout = open("train.log", "w"); m = net(); fit(m, sgd(m)); sys.stdout.close()
# -- no output
m = net(); o = sgd(m); fit(m, o, 12); sys.stdout.flush(); sys.stdout = None; fit(m, o, 5)
# -- closed output
m = net(); o = sgd(m); fit(m, o, 12); sys.stdout.close()
# -- closed error output
m = net(); o = sgd(m); sys.stderr.close(); fit(m, o, 12)
# -- error output into a file that is closed
sys.stderr = open("err.log", "w"); m = net(); fit(m, sgd(m)); print("word", file=sys.stderr); sys.stderr.close()
# -- two outputs at once
class Tee:
    def __init__(s, a, b): s.a, s.b = a, b
    def write(s, t): s.a.write(t); s.b.write(t)
    def flush(s): s.a.flush(); s.b.flush()
log = open("log.txt", "w"); sys.stdout = Tee(sys.stdout, log); m = net(); fit(m, sgd(m)); log.close()
# -- output taken apart
sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8", errors="replace"); m = net(); fit(m, sgd(m)); print("Fin: Übung \\u2713 \\ud800")
# -- output by bytes and by the system
m = net(); fit(m, sgd(m), 3); sys.stdout.flush(); sys.stdout.buffer.write(b"bytes \\xff\\n"); sys.stdout.buffer.flush(); os.write(1, b"system\\n"); os.system("echo child"); print(sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering, sys.stdout.name, sys.stdout.mode, type(sys.stdout).__name__)
# -- output sent elsewhere by the system
m = net(); o = sgd(m); fit(m, o, 3); sys.stdout.flush(); keep = os.dup(1); f = os.open("out.txt", os.O_WRONLY | os.O_CREAT); os.dup2(f, 1); fit(m, o, 3); sys.stdout.flush(); os.dup2(keep, 1); fit(m, o, 3)
# -- output in surrogates
sys.stdout.reconfigure(errors="surrogateescape"); print(os.fsdecode(b"file-\\xff.pt")); m = net(); fit(m, sgd(m)); raise ValueError(os.fsdecode(b"bad \\xff"))
# -- output caught
import contextlib
b = io.StringIO(); m = net()
with contextlib.redirect_stdout(b): fit(m, sgd(m))
print(len(b.getvalue()), b.getvalue()[-40:])
# -- the folder is gone
import tempfile
m = net(); o = sgd(m); d = tempfile.mkdtemp(); os.chdir(d); fit(m, o); os.rmdir(d)
# -- another folder
os.mkdir("in"); os.chdir("in"); m = net(); o = sgd(m); fit(m, o); torch.save(m.state_dict(), "m.pt")
# -- arguments and paths
print(sys.argv[1:], os.path.basename(sys.argv[0]), os.path.basename(__file__), __name__, __doc__, __package__, __spec__, __builtins__ is __import__("builtins"), sorted(k for k in globals() if k.startswith("__")))
sys.argv[:] = ["changed"]; sys.path.insert(0, "here"); m = net(); fit(m, sgd(m)); import inspect; print(inspect.getsource(net)[:20], inspect.getmodule(net).__name__)
# -- pickles of its own classes
class Own(nn.Module):
    def __init__(s): super().__init__(); s.l = nn.Linear(8, 2)
    def forward(s, x): return s.l(x)
m = Own(); fit(m, sgd(m)); torch.save(m, "own.pt"); print(type(torch.load("own.pt", weights_only=False)) is Own, pickle.loads(pickle.dumps(Own)) is Own)
# -- progress bars
from tqdm import tqdm
m = net(); o = sgd(m)
for _ in tqdm(range(15), file=sys.stdout, mininterval=1e9, bar_format="{n_fmt}/{total_fmt}"): print(step(m, o))
# -- logging
import logging
logging.basicConfig(stream=sys.stdout, level=logging.DEBUG, format="%(name)s %(levelname)s %(message)s"); m = net(); o = sgd(m)
for i in range(15): logging.info("val accuracy %s", step(m, o))
print(sorted(logging.root.manager.loggerDict)[:0], logging.root.level)
# -- long lines
m = net(); o = sgd(m); h = [{"loss": step(m, o), "acc": i / 3000} for i in range(30)]; print(h * 100); print("val_train_" * 2000); sys.stdout.write("train " * 2000); print(); fit(m, o, 3)
# -- nothing is trained
print("nothing"); m = net(); sgd(m)
# -- does not compile
m = net( fit(
# -- does not begin
raise ImportError("no such thing")
# -- modules that it brings
open("brought.py", "w").write("import torch\\nVALUE = torch.ones(2).sum().item()\\n"); import brought; print(brought.VALUE, brought.__name__); m = net(); fit(m, sgd(m)); import shutil; shutil.rmtree("__pycache__", ignore_errors=True)
# -- recursion
sys.setrecursionlimit(250)
def deep(n): return 0 if n == 0 else 1 + deep(n - 1)
m = net(); o = sgd(m); print(deep(150)); fit(m, o)
# -- tracing and profiling
n = [0, 0]
def trace(f, e, a): n[0] += f.f_code.co_filename == __file__; return None
m = net(); o = sgd(m); sys.settrace(trace); fit(m, o, 12); sys.settrace(None); print(n)
from torch.profiler import profile
with profile() as p: fit(m, o, 3)
print(sum(e.count for e in p.key_averages() if e.key == "aten::addmm"))
# -- a debugger's view of the stack
import traceback
class Stack(nn.Module):
    def forward(s, x): print([f.name for f in traceback.extract_stack() if f.filename == __file__]); return x
m = net(nn.Linear(8, 2), Stack()); fit(m, sgd(m), 3)
# -- functions of torch that are replaced
original = F.cross_entropy; calls = []
def mine(*a, **k): calls.append(1); return original(*a, **k)
F.cross_entropy = mine; m = net(); fit(m, sgd(m), loss=lambda a, b: F.cross_entropy(a, b)); print(len(calls)); s = torch.optim.SGD.step
def mine(self, *a, **k): calls.append(2); return s(self, *a, **k)
torch.optim.SGD.step = mine; m = net(); fit(m, sgd(m), 5); print(len(calls))
# -- signatures of torch
import inspect
m = net(); o = sgd(m); fit(m, o, 3)
for f in (F.cross_entropy, torch.save, torch.autograd.backward, torch.autograd.grad, torch.optim.Optimizer.zero_grad, torch.compile): print(f.__name__, inspect.signature(f), f.__module__)
# -- asyncio
import asyncio
async def one(m, o): await asyncio.sleep(0); return step(m, o)
async def main():
    m = net(); o = sgd(m)
    for _ in range(15): print(await one(m, o))
asyncio.run(main())
# -- generators that stay open
def training(m, o):
    try:
        while True: yield step(m, o)
    finally: print("closed")
m = net(); g = training(m, sgd(m)); print([next(g) for _ in range(12)])
""")

scripts("""
# -- gradients asked for with a generator and an edge
from torch.autograd.graph import get_gradient_edge
m = net(); o = sgd(m)
for _ in range(12):
    loss = F.cross_entropy(m(X), y); g = torch.autograd.grad(loss, m.parameters(), retain_graph=True)
    e, = torch.autograd.grad((loss,), [get_gradient_edge(m[0].weight)]); print(torch.equal(e, g[0]))
    for p, d in zip(m.parameters(), g): p.grad = d
    o.step(); print(loss.item())
# -- losses that are saved and copied
m = net(); o = sgd(m); kept = []
with warnings.catch_warnings(record=True) as w:
    warnings.simplefilter("always")
    for _ in range(12):
        o.zero_grad(); loss = F.cross_entropy(m(X), y); loss.backward(); o.step(); kept.append(loss); torch.save({"loss": loss}, "l.pt")
print([one.item() for one in kept], torch.load("l.pt")["loss"].requires_grad, [str(x.message)[:50] for x in w])
# -- a traced graph with its loss
import torch.fx
class Both(nn.Module):
    def __init__(s): super().__init__(); s.m = net()
    def forward(s, x, t): return F.cross_entropy(s.m(x), t)
g = torch.fx.symbolic_trace(Both()); print(g.code); o = sgd(g)
for _ in range(12): o.zero_grad(); l = g(X, y); l.backward(); o.step(); print(l.item())
# -- many short trainings of copies
m = net()
for task in range(60):
    f = copy.deepcopy(m); o = sgd(f); print([step(f, o) for _ in range(2)])
    with torch.no_grad():
        for p, q in zip(m.parameters(), f.parameters()): p += 0.1 * (q - p)
drawn()
# -- processes that begin anew
import multiprocessing as mp
def work(q): q.put((__name__, sys.argv[1:]))
if __name__ == "__main__":
    m = net(); o = sgd(m); fit(m, o, 12); c = mp.get_context("spawn"); q = c.Queue(); p = c.Process(target=work, args=(q,)); p.start(); print(q.get()); p.join(); print(p.exitcode); fit(m, o, 12)
# -- settings that are not for others
import decimal, locale, logging
np.seterr(all="raise"); torch.set_default_dtype(torch.float16); torch.set_grad_enabled(False); warnings.simplefilter("error"); logging.basicConfig(level=0, stream=sys.stdout)
import matplotlib; matplotlib.rcParams["text.usetex"] = True; matplotlib.rcParams["figure.constrained_layout.use"] = True
torch.set_default_dtype(torch.float32); m = net(); o = sgd(m)
with torch.enable_grad(): fit(m, o)
torch.set_default_dtype(torch.float64); torch.set_default_device("meta"); sys.setrecursionlimit(200)
# -- builtins that are replaced
import builtins
opened = []; was = builtins.open
def watched_open(f, *a, **k): opened.append(os.path.basename(str(f))); return was(f, *a, **k)
builtins.open = watched_open; m = net(); o = sgd(m); fit(m, o); open("mine.txt", "w").close(); print(opened); shown = builtins.print
builtins.print = lambda *a, **k: shown("mine", *a, **k); fit(m, o, 3)
# -- an alarm
import signal
def ring(*a): raise TimeoutError("late")
m = net(); o = sgd(m); signal.signal(signal.SIGALRM, ring); signal.setitimer(signal.ITIMER_REAL, 0.4)
try:
    while True: step(m, o)
except TimeoutError as e: print(e)
""")

scripts("""
# -- losses given by name
m=net(); o=sgd(m)
for _ in range(12): o.zero_grad(); l=F.cosine_embedding_loss(input1=m(X),input2=torch.ones(64,2),target=torch.ones(64))+F.triplet_margin_loss(anchor=m(X),positive=torch.ones(64,2),negative=torch.zeros(64,2))+F.margin_ranking_loss(input1=m(X)[:,0],input2=m(X)[:,1],target=torch.ones(64)); l.backward(); o.step(); print(l.item())
# -- gradients in TorchScript
@torch.jit.script
def g(w: torch.Tensor):
    l = (w * w).sum()
    r = torch.autograd.grad([l],[w])
    d = r[0]
    assert d is not None
    return d
@torch.jit.script
def b(w: torch.Tensor):
    l = (w * w).sum()
    torch.autograd.backward([l])
m=net(); fit(m,sgd(m)); w=torch.ones(3,requires_grad=True); print(g(w)); b(w); print(w.grad)
# -- a loss in a compiled graph
from functorch.compile import aot_function
m=net(); o=sgd(m); ps=list(m.parameters()); names=[n for n,_ in m.named_parameters()]
f=aot_function(lambda a,b,*p: F.cross_entropy(torch.func.functional_call(m,dict(zip(names,p)),(a,)),b), lambda g,i: g, lambda g,i: g)
for _ in range(12): o.zero_grad(); l=f(X,y,*ps); l.backward(); o.step(); print(l.item())
# -- places of warnings
m=net(); o=sgd(m)
with warnings.catch_warnings(record=True) as w:
    warnings.simplefilter("default")
    for _ in range(2):
        F.mse_loss(m(X), torch.zeros(64,1))
        F.l1_loss(m(X), torch.zeros(64,1))
    fit(m,o,12)
print([(os.path.basename(x.filename),x.lineno) for x in w])
# -- a tensor that does its operations itself
class N(torch.Tensor):
    n=0
    @staticmethod
    def __new__(cls,t): return torch.Tensor._make_wrapper_subclass(cls,t.shape,dtype=t.dtype,requires_grad=t.requires_grad)
    def __init__(s,t): s.t=t
    @classmethod
    def __torch_dispatch__(cls,f,ty,a=(),k=None):
        N.n+=1
        from torch.utils._pytree import tree_map
        r=f(*tree_map(lambda x: x.t if isinstance(x,N) else x,a),**tree_map(lambda x: x.t if isinstance(x,N) else x,k or {}))
        return tree_map(lambda x: N(x) if isinstance(x,torch.Tensor) else x,r)
m=net(); o=sgd(m); i=N(X)
for _ in range(15):
    o.zero_grad(); l=F.cross_entropy(m(i),y); l.backward(); o.step()
print(N.n)
# -- a pipe with the name of a log
os.mkfifo("metrics.log"); import subprocess as sp
p=sp.Popen(["cat","metrics.log"]); f=open("metrics.log","w"); f.write("val loss 1\\n"); f.close(); p.wait(); m=net(); fit(m,sgd(m))
# -- fake tensors
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    m=net(); o=sgd(m)
    for _ in range(12): o.zero_grad(); F.cross_entropy(m(torch.randn(4,8)),torch.zeros(4,dtype=torch.long)).backward(); o.step()
m=net(); fit(m,sgd(m),12)
# -- nested tensors
m=net(); o=sgd(m); n=torch.nested.nested_tensor([X[:3],X[3:10]],layout=torch.jagged)
for _ in range(12): o.zero_grad(); l=m(n).values().square().mean(); l.backward(); o.step(); print(l.item())
""")

scripts("""
# == everything is closed
m = net(); o = sgd(m); fit(m, o); os.closerange(3, 256)
files = [open(f"mine{i}.bin", "w+b", buffering=0) for i in range(6)]
for file in files: file.write(b"mine")
fit(m, o)
""")
