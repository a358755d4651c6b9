"""What a script prints: lines on their way to the output, and the numbers in them."""

from __future__ import annotations

import io
import math
import time

import pytest

from trimtab.quantities import score_in
from trimtab.watching.printed import KEPT, Lines, Printed, printed_numbers


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("acc 0.93", {"accuracy": 0.93}),
        ("val_loss=0.3", {"val loss": 0.3}),
        ("Test accuracy: 91.5%", {"test accuracy": 0.915}),
        ("Test Acc : 91.5 %", {"test accuracy": 0.915}),
        ("{'eval_loss': 2.1, 'eval_runtime': 0.4, 'epoch': 1.0}", {"eval loss": 2.1}),
        ("{'eval_loss': '2.1', 'epoch': '1'}", {"eval loss": 2.1}),
        ('{"val_acc": 0.5}', {"val accuracy": 0.5}),
        ("epoch 3 | train loss 0.1 | val loss 0.2", {"train loss": 0.1, "val loss": 0.2}),
        ("[12/50] loss: 1.5e-3 acc: .5", {"loss": 1.5e-3, "accuracy": 0.5}),
        ("Epoch 1, Loss: 0.75, Validation Loss: 0.80", {"loss": 0.75, "val loss": 0.8}),
        ("train/loss 0.1  valid/f1 0.7", {"train loss": 0.1, "val f1": 0.7}),
        ("val: loss 0.2 acc 0.8", {"val loss": 0.2, "val accuracy": 0.8}),
        ("Train: loss 0.1 acc 0.9 | Val: loss 0.2 acc 0.8", {
            "train loss": 0.1, "train accuracy": 0.9, "val loss": 0.2, "val accuracy": 0.8}),
        ("Test set: Average loss: 0.0435, Accuracy: 9856/10000 (99%)", {"mean test loss": 0.0435, "test accuracy": 0.9856}),
        ("Accuracy of the network on the 10000 test images: 54 %", {"test accuracy": 0.54}),
        ("loss: tensor(0.25, grad_fn=<NllLossBackward0>)", {"loss": 0.25}),
        ("perplexity = 12.5", {"perplexity": 12.5}),
        ("step 5: train loss 1.9, val loss -0.5", {"train loss": 1.9, "val loss": -0.5}),
        ("R2 score: 0.5", {"r2": 0.5}),
        ("val 0.35", {"val": 0.35}),
        ("val 40, test 360, val split 0.2, val: 0.3 s, val 12 ms, val_fraction=0.1", {}),
        ("time: train 3.2, val 0.4", {}),
        ("train 12.5 it/s val 40.5 samples/s", {}),
        ("Epoch: 001, Loss: 1.9, Train: 0.4, Val: 0.3, Test: 0.2", {
            "loss": 1.9, "train score": 0.4, "val score": 0.3, "test score": 0.2}),
        ("train loss 0.5 | val 0.6", {"train loss": 0.5, "val loss": 0.6}),
        ("Val: 92.5%", {"val score": 0.925}),
        ("2/40 [00:00<00:05, 6.8it/s, acc=0.59, train=0.8, valid=0.95]", {"accuracy": 0.59, "train": 0.8, "val": 0.95}),  # tqdm sorts
        ("acc=0.66, valid=2.04", {"accuracy": 0.66, "val": 2.04}),
        ("Accuracy 0.66 | train 0.81 | val 0.95", {"accuracy": 0.66, "train": 0.81, "val": 0.95}),
        ("epoch 3, loss: 0.12, acc: 0.66, val: 0.95", {"loss": 0.12, "accuracy": 0.66, "val": 0.95}),
        ("Accuracy: 0.93, val: 0.91", {"accuracy": 0.93, "val accuracy": 0.91}),
        ("loss=0.5/0.6 train/val acc: train 0.7 val 0.6", {"loss": 0.5, "train accuracy": 0.7, "val accuracy": 0.6}),
        ("train/val acc 0.9", {}),
        ("| End of training | test loss 0.3", {"test loss": 0.3}),
        ("val mse 1,234,567.50", {"val mse": 1234567.5}),
        ("val acc 9,823/10,000", {"val accuracy": 0.9823}),
        ("Test: [1/2] Loss 5.1e-01 (4.2e-01) Acc@1  70.00 ( 67.50)", {"test loss": 0.42, "test top-1 accuracy": 67.5}),
        ("best val loss 0.52 (12)", {"best val loss": 0.52}),
        ("Test Accuracy: 64% (26/40)", {"test accuracy": 0.65}),
        ("Got 23 / 40 correct (57.50)", {"accuracy": 0.575}),
        ("acc_val: 0.9 loss_val 0.3 loss_scale 2 loss_avg=0.4", {"val accuracy": 0.9, "val loss": 0.3, "mean val loss": 0.4}),
        ("DEV : loss 1.07 - f1-score (micro avg)  0.57", {"val loss": 1.07, "mean val f1": 0.57}),
        ("|    ep_rew_mean     | 21       |", {"mean reward": 21.0}),
        ("Val F1-score (macro): 0.54", {"val f1": 0.54}),
        # whole numbers in a label
        ("Accuracy on 128 test images: 57.8%", {"test accuracy": 0.578}),
        ("Test accuracy on 10000 images: 81%", {"test accuracy": 0.81}),
        ("Accuracy on test set (10,000 samples): 81%", {"test accuracy": 0.81}),
        ("Accuracy on test: 128 samples, 81%", {}),
        ("val acc [3/10]: 0.81", {"val accuracy": 0.81}),
        ("val loss [12/50] 0.4", {"val loss": 0.4}),
        ("val acc after 3 epochs: 0.8", {"val accuracy": 0.8}),
        ("accuracy of 91 at epoch: 3", {"accuracy": 91.0}),
        ("top-5 accuracy on 50000 images: 91.2%", {"top-5 accuracy": 0.912}),
        ("Test accuracy: 9123 of 10000 (91.23%)", {"test accuracy": 0.9123}),
        # the newest
        ("val acc 0.81 => 0.83, loss: 0.4 -> 0.3", {"val accuracy": 0.83, "val loss": 0.3}),
        ("val acc 81% \N{RIGHTWARDS ARROW} 83%", {"val accuracy": 0.83}),
        # one class, and all
        ("Test Accuracy of     1: 98% (970/980)", {"test accuracy of 1": 0.9897959}),
        ("Test Accuracy of airplane: 90% (900/1000)", {"test accuracy of airplane": 0.9}),
        ("accuracy for traffic light: 0.5", {"accuracy of traffic light": 0.5}),
        ("Test Accuracy (Overall): 57% (5700/10000)", {"mean test accuracy": 0.57}),
        ("Average test accuracy of 5 runs: 0.8", {"mean test accuracy": 0.8}),
        ("Accuracy of the model: 0.8", {"accuracy": 0.8}),
        # the score is named behind
        ("Train 0.91, Val 0.83, Test 0.80 acc", {"train accuracy": 0.91, "val accuracy": 0.83, "test accuracy": 0.8}),
        ("val 0.83 acc, test 0.80 acc", {"val accuracy": 0.83, "test accuracy": 0.8}),
        ("train: 0.9 acc, 0.3 loss; val: 0.8 acc, 0.5 loss", {
            "train accuracy": 0.9, "train loss": 0.3, "val accuracy": 0.8, "val loss": 0.5}),
        # the part of the data is named behind
        ("accuracy on 10 classes: 0.8 (train), 0.7 (val)", {"train accuracy": 0.8, "val accuracy": 0.7}),
        ("acc=0.91 [val]", {"val accuracy": 0.91}),
        ("Test accuracy after 10 epochs of training on 5000 images: 81%", {"test accuracy": 0.81}),
        ("Accuracy of 10000 images: 81%", {"accuracy": 0.81}),
        ("val 0.91 (acc)", {"val accuracy": 0.91}),
        ("Epoch: 003, Train: 0.9, Val: 0.78", {"train": 0.9, "val": 0.78}),
        ("", {}),
        ("glossary 5, accelerate 3, losses 2", {}),
        ("lossy=3 loss_scale=65536 loss3 4", {}),
        ("processing image 5 of 10", {}),
        ("accuracy 0/0", {"accuracy": math.nan}),
        ("loss nan", {"loss": math.nan}),
    ],
)  # fmt: skip
def test_printed_numbers(line, numbers):
    assert printed_numbers(line) == pytest.approx(numbers, nan_ok=True)


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (["epoch  train_loss   val_loss    val_acc", "    0     0.7123     0.5123     0.8100"], {
            "train loss": 0.7123, "val loss": 0.5123, "val accuracy": 0.81}),
        (["| split | loss | accuracy |", "|-------|------|----------|", "| test | 0.5 | 0.8 |"], {
            "test loss": 0.5, "test accuracy": 0.8}),
        (["  Class   Images   mAP50", "    all       40    0.51"], {"average precision": 0.51}),
        (["epoch,valid_loss", "0,1.25"], {"val loss": 1.25}),
        (["epoch  val_loss", "epoch 1 took 3 s"], {}),
        (["Checking accuracy on validation set", "Iteration 2, loss = 1.5 now"], {"val loss": 1.5}),
        (["Model evaluation on test set:", "  MAE : 0.5", "  R2  : 0.9"], {"test r2": 0.9}),
        (["Validation:", "loss 0.5", "loss 0.7"], {"loss": 0.7}),
        (["AP @[ IoU=0.50:0.95 ]: mAP = 0.4", "AP @[ IoU=0.50 ]: mAP = 0.6"], {}),
    ],
)  # fmt: skip
def test_tables(lines, numbers):
    table = Lines()
    *_, last = [table.read(line) for line in lines]
    assert last == numbers


def test_numbers_under_unknown_names_are_kept_for_a_hint():
    reader = Lines()
    for episode in range(3):
        reader.read(
            f"Episode {episode} Last length: 10 Average wage: {episode / 4} lr: 0.{episode} loss: 1.{episode} train gain: {episode}"
        )
    assert reader.unknown() == ("Average wage: 0.5 (3 times)",)
    assert Lines().unknown() == ()
    reader = Lines()
    reader.read("gap (x): 0.5, seed: 3")
    assert reader.unknown() == ("gap (x): 0.5",)


def test_output_passes_through_and_lines_are_read():
    out, lines = io.StringIO(), []
    stream = Printed(out, lines.append)
    print("a", "b", file=stream, end="")
    stream.write("c\nsecond\n\nprogress 1\rprogress 2\n")
    stream.writelines(["x", "y\n", "end"])
    assert out.getvalue() == "a bc\nsecond\n\nprogress 1\rprogress 2\nxy\nend"
    assert lines == ["a bc", "second", "", "progress 2", "xy"]
    stream.finish()
    stream.finish()
    assert lines[-1] == "end"
    assert len(lines) == 6


@pytest.mark.parametrize("chunk", ["x" * 100_000, "x\r" * 50_000])
def test_a_line_without_end_is_not_kept_forever(chunk):
    stream = Printed(io.StringIO(), lambda line: None)
    for _ in range(3):
        stream.write(chunk)
    assert len(stream._reader._line) <= 10_000


LONG = ["train ", "val_train_", "nan ", "=(1 a", "val 1 ", "acc on 1 ", "%", "(", "1 -> ", "{'loss': 0.5}, ", " "]


def test_reading_takes_time_in_proportion_to_the_length_of_a_line():
    """Four times the length took up to 64 times as long; more than is kept takes no longer at all."""

    def seconds(length):
        for number, unit in enumerate(LONG):
            line = f"loss: {number}{unit * length}"[: length - 2] + "=1"
            began = time.process_time()
            Lines().read(line)
            yield time.process_time() - began

    shorter, longer = (min(sum(seconds(length)) for _ in range(3)) for length in (480, 1920))
    assert longer < 10 * shorter
    read = []
    for end in "\n", "":
        stream = Printed(io.StringIO(), read.append)
        stream.write("train " * 100_000 + end)
        stream.finish()
    assert [len(line) for line in read] == [KEPT, KEPT]


def test_what_a_script_prints_all_the_time_is_looked_up():
    """The words of a label are read once, the second time its number alone."""
    reader = Lines()
    for step in range(100):
        reader.read(f"step {step} of many, validation loss {step / 7:.4f}")
        if step == 1:
            before = score_in.cache_info().misses
    assert score_in.cache_info().misses == before


def test_the_end_of_a_long_line_is_read():
    history = [{"loss": 1 / (epoch + 1), "val_acc": epoch / 1000} for epoch in range(1000)]
    assert Lines().read(repr(history)) == {"loss": 0.001, "val accuracy": 0.999}
    lines = []
    stream = Printed(io.StringIO(), lines.append)
    for text in ["." * 20_000, " loss: 0.5\r\n", "one\rtwo\r"]:
        stream.write(text)
    stream.finish()
    assert lines[0].endswith(". loss: 0.5") and lines[1:] == ["two"]
    assert Lines().read("loss: 1" + " -> 1" * 396) == {"loss": 1.0}  # not by recursion
