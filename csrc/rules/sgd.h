/* Sutskever et al., "On the importance of initialization and momentum in deep
   learning", 2013, in torch.optim's form. */
enum {
    SGD_MOMENTUM = FA_FLAG(0),
    NESTEROV = FA_FLAG(1),
    SGD_FLAGS = SGD_MOMENTUM | NESTEROV
};
#define SGD_STATES(flags) ((flags) & SGD_MOMENTUM ? FA_STATE(0) : 0)

#ifndef FA_REAL

static void sgd(fa_scalars *s, const fa_hyper *h)
{
    s->step_size = h->lr;
    s->momentum = h->momentum;
    s->fresh = s->step == 1 ? 1 : 1 - h->dampening; /* torch.optim's first step is undamped */
    s->flags |= (h->momentum != 0 ? SGD_MOMENTUM : 0) | (h->nesterov != 0 ? NESTEROV : 0);
}

#else

FA_RULE sgd(const constants *k, real p, real g, real s[], int flags)
{
    if (flags & SGD_MOMENTUM) {
        const real buffer = s[0] = normal(k->momentum * s[0] + k->fresh * g);
        g = flags & NESTEROV ? g + k->momentum * buffer : buffer;
    }
    return p * k->keep - k->step_size * g;
}

#endif
