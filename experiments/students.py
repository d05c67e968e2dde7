"""What the studies of distillation share: a control, and what is measured."""

import torch
import torch.nn.functional as F

from vitutils.deit import DistilledVisionTransformer, average, token_similarity


def both_learn_the_labels(outputs, labels, images):
    """Train DeiT as a ViT with two class tokens: the control without a teacher."""
    return sum(F.cross_entropy(logits, labels) for logits in outputs) / 2


def measure(model, split, teacher):
    """Return accuracies, disagreements and token similarity on a split."""
    model.eval()
    two_tokens = isinstance(model, DistilledVisionTransformer)
    answers, similarity = {}, []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for images, _ in split.batches(500, device=device):
            if two_tokens:
                *pair, _ = model.both_heads(images)
                logits = {"class": pair[0], "distill": pair[1], "both": average(*pair)}
                similarity.append(token_similarity(model, images))
            else:
                logits = {"class": model(images)}
            logits["teacher"] = teacher(images)
            for name, values in logits.items():
                answers.setdefault(name, []).append(values.argmax(dim=1).cpu())
    answers = {name: torch.cat(parts) for name, parts in answers.items()}
    names = list(answers)
    results = {
        "accuracy": {n: share(answers[n] == split.labels) for n in names},
        "disagreement": {
            f"{a}, {b}": share(answers[a] != answers[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
    }
    if similarity:
        by_layer = torch.stack(similarity).mean(dim=0)
        results["similarity"] = [round(value, 4) for value in by_layer.tolist()]
    return results


def share(truth):
    return round(truth.double().mean().item(), 4)
