/* The list of rules; rules/ has each, and fastadam/_rules/ its twin in NumPy under the same
   name.

   A rule's file has two halves. The first computes the scalars of a step, once and in double.
   The second, where FA_REAL is defined, is the rule for one element, or for as many as a
   vector holds: it gets the parameter p, its gradient g and the state s, changes the state
   and returns the new parameter. Every operation is rounded once to the dtype, and none may be
   fused or reordered: add, multiply, divide and square root are then the same on every CPU.

   `flags` is a constant where a rule is called. With a rule's name in capitals, _FLAGS are
   those of its own that it takes, and _STATES the arrays of state that a variant has. */
#ifndef FASTADAM_RULES_H
#define FASTADAM_RULES_H

#include "rules/adam.h"
#include "rules/adamax.h"
#include "rules/ademamix.h"
#include "rules/adopt.h"
#include "rules/lion.h"
#include "rules/nadam.h"
#include "rules/radam.h"
#include "rules/rmsprop.h"
#include "rules/schedule_free.h"
#include "rules/sgd.h"

#define FA_RULES(X) \
    X(adam, ADAM) \
    X(nadam, NADAM) \
    X(radam, RADAM) \
    X(adamax, ADAMAX) \
    X(rmsprop, RMSPROP) \
    X(sgd, SGD) \
    X(lion, LION) \
    X(adopt, ADOPT) \
    X(ademamix, ADEMAMIX) \
    X(schedule_free, SCHEDULE_FREE)

#endif
