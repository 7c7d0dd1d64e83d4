/* Each gradient in one pass: what lightwatch/exact.py says in torch calls, with the same bits.

   Laws
     1. fl32(g * s) is one IEEE product, then one rounding to an integer, half to even: never contracted, never fused.
     2. Sums and checksum wrap modulo 2^32 (unsigned here); the checksum adds exactly the q that the sum was given.
     3. The top is the largest |g| by its bits, hence NaN > Inf > finite.
     4. What is out of range, NaN or Inf becomes what this processor's conversion makes of it, as in torch; such sums
        are only ever measured with or thrown away.

   Addresses arrive as integers from `Tensor.data_ptr()`; nothing here is checked, exact.py has done so. A function that
   changes its arguments changes its name too: what is left of an older build then falls back to torch. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>

/* No -march: a wheel travels. The loader chooses by the processor that it finds; the bits are the same. */
#if !defined(EACH_PROCESSOR) && defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#ifndef EACH_PROCESSOR
#define EACH_PROCESSOR
#endif

#define WORTH_RELEASING 16384 /* elements: below, others wait for the interpreter for less than a few microseconds */

typedef union {
    float number;
    int32_t bits;
} word;

EACH_PROCESSOR static uint32_t
quantise(uint32_t *restrict sums, const word *restrict gradient, Py_ssize_t count, float scale, int32_t *top)
{
    uint32_t check = 0;
    int32_t most = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t size = gradient[i].bits & INT32_MAX;
        uint32_t q = (uint32_t)(int32_t)rintf(gradient[i].number * scale);
        most = size > most ? size : most;
        sums[i] += q;
        check += q;
    }
    *top = most;
    return check;
}

EACH_PROCESSOR static int32_t
add(float *restrict sums, const word *restrict gradient, Py_ssize_t count)
{
    int32_t most = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t size = gradient[i].bits & INT32_MAX;
        most = size > most ? size : most;
        sums[i] += gradient[i].number;
    }
    return most;
}

/* Sums and means may be the same memory, else they do not overlap; saying so is worth a loop of its own. */
EACH_PROCESSOR static void
scale_all(word *means, const word *sums, Py_ssize_t count, float factor)
{
    if (means == sums) {
        for (Py_ssize_t i = 0; i < count; i++) {
            means[i].number = (float)means[i].bits * factor;
        }
    } else {
        word *restrict into = means;
        const word *restrict from = sums;
        for (Py_ssize_t i = 0; i < count; i++) {
            into[i].number = (float)from[i].bits * factor;
        }
    }
}

static PyObject *
wrong_count(Py_ssize_t expected, Py_ssize_t given)
{
    return PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, given);
}

/* take(sums, gradient, count, top, check, scale)
   check 0 is the address of none: float sums, which are not scaled either. */
static PyObject *
take(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    if (given != 6) {
        return wrong_count(6, given);
    }
    void *sums = PyLong_AsVoidPtr(arguments[0]);
    const word *gradient = PyLong_AsVoidPtr(arguments[1]);
    Py_ssize_t count = PyLong_AsSsize_t(arguments[2]);
    double *top = PyLong_AsVoidPtr(arguments[3]);
    int64_t *check = PyLong_AsVoidPtr(arguments[4]);
    double scale = PyFloat_AsDouble(arguments[5]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    word most;
    PyThreadState *state = count < WORTH_RELEASING ? NULL : PyEval_SaveThread();
    if (check) {
        *check += (int32_t)quantise(sums, gradient, count, (float)scale, &most.bits);
    } else {
        most.bits = add(sums, gradient, count);
    }
    *top += most.number;
    if (state) {
        PyEval_RestoreThread(state);
    }
    Py_RETURN_NONE;
}

/* mean(means, sums, count, factor) */
static PyObject *
mean(PyObject *module, PyObject *const *arguments, Py_ssize_t given)
{
    if (given != 4) {
        return wrong_count(4, given);
    }
    word *means = PyLong_AsVoidPtr(arguments[0]);
    const word *sums = PyLong_AsVoidPtr(arguments[1]);
    Py_ssize_t count = PyLong_AsSsize_t(arguments[2]);
    double factor = PyFloat_AsDouble(arguments[3]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyThreadState *state = count < WORTH_RELEASING ? NULL : PyEval_SaveThread();
    scale_all(means, sums, count, (float)factor);
    if (state) {
        PyEval_RestoreThread(state);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, "Add one gradient to sums."},
    {"mean", (PyCFunction)(void (*)(void))mean, METH_FASTCALL, "Turn integer sums into float32 means."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "lightwatch._sums", "Sums in one pass.", 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__sums(void)
{
    return PyModuleDef_Init(&module);
}
