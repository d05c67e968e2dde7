# %% 1 right: by log-softmax
def soft_gradient(z_s, labels, z_t, temperature, balance):
    B, K = z_s.shape
    target = torch.zeros(B, K)
    target[torch.arange(B), labels] = 1
    hard = z_s.log_softmax(1).exp() - target
    soft = (z_s / temperature).softmax(1) - (z_t / temperature).softmax(1)
    return (1 - balance) * hard / B + balance * temperature * soft / B


# %% 1 right: one image after the other
def soft_gradient(z_s, labels, z_t, temperature, balance):
    rows = []
    for s, label, t in zip(z_s, labels, z_t):
        hard = s.softmax(0)
        hard[label] -= 1
        soft = (s / temperature).softmax(0) - (t / temperature).softmax(0)
        rows.append((1 - balance) * hard + balance * temperature * soft)
    return torch.stack(rows) / len(rows)


# %% 1 wrong: tau squared is left whole
def soft_gradient(z_s, labels, z_t, temperature, balance):
    hard = z_s.softmax(1) - F.one_hot(labels, z_s.shape[1])
    soft = (z_s / temperature).softmax(1) - (z_t / temperature).softmax(1)
    return ((1 - balance) * hard + balance * temperature**2 * soft) / len(z_s)


# %% 1 wrong: the sum over the batch
def soft_gradient(z_s, labels, z_t, temperature, balance):
    hard = z_s.softmax(1) - F.one_hot(labels, z_s.shape[1])
    soft = (z_s / temperature).softmax(1) - (z_t / temperature).softmax(1)
    return (1 - balance) * hard + balance * temperature * soft


# %% 1 wrong: hard-coded
def soft_gradient(z_s, labels, z_t, temperature, balance):
    hard = z_s.softmax(1) - F.one_hot(labels, z_s.shape[1])
    soft = (z_s / 3).softmax(1) - (z_t / 3).softmax(1)
    return (0.6 * hard + 0.4 * 3 * soft) / 6


# %% 2 right: by negative log-likelihood
def mended_loss(outputs, labels, teacher_logits):
    first, second = (logits.log_softmax(1) for logits in outputs)
    answers = teacher_logits.argmax(1)
    return 0.5 * F.nll_loss(first, labels) + 0.5 * F.nll_loss(second, answers)


# %% 2 right: the chapter's own
def mended_loss(outputs, labels, teacher_logits):
    return hard_distillation(outputs, labels, teacher_logits)


# %% 2 wrong: the class head learns both
def mended_loss(outputs, labels, teacher_logits):
    answers = teacher_logits.argmax(1)
    logits = outputs[0]
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits, answers)) / 2


# %% 2 wrong: the teacher's probabilities
def mended_loss(outputs, labels, teacher_logits):
    first, second = outputs
    soft = teacher_logits.softmax(1)
    return (F.cross_entropy(first, labels) + F.cross_entropy(second, soft)) / 2


# %% 2 wrong: hard-coded
def mended_loss(outputs, labels, teacher_logits):
    return torch.tensor(2.3) + 0 * outputs[0].sum() + 0 * outputs[1].sum()


# %% 3 right: a count
def disagreement(logits, others):
    same = sum(int(a.argmax() == b.argmax()) for a, b in zip(logits, others))
    return 1 - same / len(logits)


# %% 3 right: a tensor
def disagreement(logits, others):
    return torch.ne(logits.max(-1).indices, others.max(-1).indices).double().mean()


# %% 3 wrong: how often they agree
def disagreement(logits, others):
    return (logits.argmax(1) == others.argmax(1)).float().mean().item()


# %% 3 wrong: over all the numbers
def disagreement(logits, others):
    return (logits != others).float().mean().item()


# %% 3 wrong: hard-coded
def disagreement(logits, others):
    return 0.25


# %% 4 right: hard answers, a loop of its own
def learn_without_labels(student, teacher, split):
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, betas=(0.9, 0.99))
    for epoch in range(4):
        for images, _ in split.batches(128, seed=1, epoch=epoch):
            loss = F.cross_entropy(student(images), teacher(images).argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return student.eval()


# %% 4 right: the teacher's probabilities for labels
def learn_without_labels(student, teacher, split):
    def loss_fn(outputs, labels, images):
        return F.cross_entropy(outputs, teacher(images).softmax(1))

    data_ = SimpleNamespace(train=split, validation=monitor)
    fit(student, data_, epochs=4, lr=4e-3, loss_fn=loss_fn, progress=False)
    return student


# %% 4 wrong: the noise has most of the loss
def learn_without_labels(student, teacher, split):
    loss = partial(soft_distillation, temperature=3.0, balance=0.001)
    data_ = SimpleNamespace(train=split, validation=monitor)
    learn = teacher.teaches(loss)
    fit(student, data_, epochs=2, lr=3e-3, loss_fn=learn, progress=False)
    return student


# %% 4 wrong: the teacher itself
def learn_without_labels(student, teacher, split):
    return teacher.model


# %% 4 wrong: hard-coded
def learn_without_labels(student, teacher, split):
    return 0.61
