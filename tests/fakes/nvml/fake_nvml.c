/* A stand-in for libnvidia-ml.so.1 that plays a scripted scenario whose joules are exactly known.
 *
 * Every quantity is a piecewise constant curve over seconds since the script's origin, so each integral (the energy counter, the
 * throttle counters, the one-second average) is exact. The invariant: a counter shows the exact integral up to its own last
 * step, truncated to whole units, and nothing between two steps.
 *
 * The script is text, one statement a line, named by the environment variable FAKE_NVML_SCRIPT and read at every first
 * nvmlInitWithFlags. The Python writer beside this file documents each statement. Time is CLOCK_MONOTONIC, or a shared
 * double in the file that a `clock` statement names, so that a test can own it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, VERSION_MISMATCH = 25, UNKNOWN = 999
};
enum { TYPE_UINT = 1, TYPE_ULL = 3, TYPE_INT = 5 };
enum { MAX_GPUS = 16, MAX_FAULTS = 64, MAX_ANSWERS = 48, MAX_PROCESSES = 128, MAX_MIGS = 8 };
enum { NO_INSTANCE = 0xFFFFFFFFu };

/* A card that knows its margin knows it to the highest operating temperature, and slows down this much later. */
enum { SLOWDOWN_OFFSET = -2 };

/* The layouts below are NVML's ABI. */
typedef uintptr_t Device;
typedef struct {
    uint32_t field_id, scope_id;
    int64_t timestamp, latency_us;
    int32_t value_type, result;
    union { double d; uint32_t ui; uint64_t ull; } value;
} FieldValue;
typedef struct { unsigned long long total, free, used; } MemoryV1;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; int sensor; int temperature; } TemperatureV1;
typedef struct { unsigned version; int margin; } MarginV1;
typedef struct { unsigned pid; unsigned long long timestamp; unsigned sm, mem, enc, dec; } ProcessSample;
typedef struct { unsigned pid; unsigned long long used_memory; unsigned gpu_instance, compute_instance; } ProcessInfo;

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    unsigned long long memory_mib;
} Attributes;
typedef struct { unsigned version, supported; } GpmSupport;
typedef struct { const char *short_name, *long_name, *unit; } GpmMetricInfo;
typedef struct { unsigned id; int result; double value; GpmMetricInfo info; } GpmMetric;
typedef struct { int gpu; unsigned gpu_instance; double at; } *GpmSample; /* opaque in NVML */
typedef struct { unsigned version, count; GpmSample first, second; GpmMetric metrics[]; } GpmMetricsGet;

typedef struct { double at, value, before; } Point; /* before: the integral up to `at` */
typedef struct { Point *points; int count, room; double loop; } Curve;

typedef enum { FAULT_CALL, FAULT_FIELD, FAULT_VALUE, FAULT_SLOW, FAULT_GONE, FAULT_OFFSET, FAULT_FREEZE, FAULT_KINDS } FaultKind;
typedef enum { WHEN_TIME, WHEN_CALLS, WHEN_EVERY } FaultWhen;
typedef struct { FaultKind kind; FaultWhen when; double from, until; char target[48]; double value; } Fault;
typedef struct { char target[56]; int code; double values[4]; } Answer;
/* `mig`: index of the MIG instance that it runs on, -1 on a GPU without. */
typedef struct { unsigned pid; double from, until, sm; int mig; char name[96]; } Process;
/* One compute instance, from `from` until it is destroyed. */
typedef struct {
    char uuid[96], profile[40];
    double from, until, memory_total;
    unsigned gpu_instance, compute_instance, multiprocessors, gpu_slices, compute_slices;
    Curve memory_used, activity; /* activity: busy share of the GPU instance's SMs */
} Mig;

#define FUNCTIONS(X) \
    X(nvmlDeviceGetHandleByIndex_v2) X(nvmlDeviceGetHandleByUUID) X(nvmlDeviceGetName) X(nvmlDeviceGetUUID) \
    X(nvmlDeviceGetArchitecture) X(nvmlDeviceGetFieldValues) X(nvmlDeviceGetTotalEnergyConsumption) \
    X(nvmlDeviceGetPowerUsage) X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) \
    X(nvmlDeviceGetTemperature) X(nvmlDeviceGetTemperatureV) X(nvmlDeviceGetTemperatureThreshold) \
    X(nvmlDeviceGetMarginTemperature) X(nvmlDeviceGetEnforcedPowerLimit) X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetClockInfo) \
    X(nvmlDeviceGetMaxClockInfo) X(nvmlDeviceGetCurrentClocksEventReasons) X(nvmlDeviceGetCurrentClocksThrottleReasons) \
    X(nvmlDeviceGetProcessUtilization) X(nvmlDeviceGetComputeRunningProcesses_v3) X(nvmlSystemGetProcessName) \
    X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMaxMigDeviceCount) X(nvmlDeviceGetMigDeviceHandleByIndex) \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceGetGpuInstanceId) X(nvmlDeviceGetComputeInstanceId) \
    X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) X(nvmlDeviceGetAttributes_v2) X(nvmlGpmQueryDeviceSupport) \
    X(nvmlGpmMigSampleGet)
#define AS_ENUM(name) FN_##name,
#define AS_NAME(name) #name,
enum { FUNCTIONS(AS_ENUM) FN_COUNT };
static const char *const function_names[] = { FUNCTIONS(AS_NAME) };

typedef struct {
    char uuid[96], name[96];
    unsigned arch, max_clocks[3];
    double step, phase, sensor_window, counter_window, counter_gain, base_mj, limit, memory_total, slowdown;
    int margin; /* 1: the card knows its margin and no absolute threshold, as Hopper does; 0: the other way round */
    Curve power, temperature, utilization, memory_used, reasons, clock;
    double resets[16];
    int reset_count;
    Fault faults[MAX_FAULTS];
    int fault_count;
    Answer answers[MAX_ANSWERS];
    int answer_count;
    Process processes[MAX_PROCESSES];
    int process_count;
    Mig migs[MAX_MIGS];
    int mig_mode, mig_count, gpm; /* gpm: 1 where the card has performance counters, as Hopper and newer have */
    unsigned long calls[FN_COUNT];
    long counted_step; /* part-time counter: what was added up so far */
    double counted_joules;
} Gpu;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Gpu gpus[MAX_GPUS];
static int gpu_count, references, init_result, fine_throttle;
static double origin_mono, origin_unix;
static volatile double *manual_clock;
static char driver[80], busy_path[512];
static int busy_file = -1;
static off_t busy_read;
static char busy_rest[256];
static size_t busy_rest_length;

/* ---- curves ------------------------------------------------------------------------------------------------------- */

static void add_point(Curve *curve, double at, double value) {
    if (curve->count == curve->room) {
        curve->room = curve->room ? curve->room * 2 : 8;
        curve->points = realloc(curve->points, (size_t)curve->room * sizeof(Point));
    }
    double before = 0.0;
    if (curve->count) {
        const Point *last = &curve->points[curve->count - 1];
        if (at < last->at) at = last->at;
        before = last->before + last->value * (at - last->at);
    }
    curve->points[curve->count++] = (Point){at, value, before};
}

static const Point *point_at(const Curve *curve, double t) {
    int low = 0, high = curve->count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (curve->points[middle].at <= t) low = middle; else high = middle - 1;
    }
    return &curve->points[low];
}

static double value_at(const Curve *curve, double t) {
    if (curve->loop > 0.0) t -= floor(t / curve->loop) * curve->loop;
    return point_at(curve, t)->value;
}

static double integral_once(const Curve *curve, double t) {
    const Point *point = point_at(curve, t);
    return point->before + point->value * (t - point->at);
}

static double integral(const Curve *curve, double t) {
    if (curve->loop <= 0.0) return integral_once(curve, t);
    double rounds = floor(t / curve->loop);
    return rounds * integral_once(curve, curve->loop) + integral_once(curve, t - rounds * curve->loop);
}

static double mean(const Curve *curve, double from, double until) {
    return (integral(curve, until) - integral(curve, from)) / (until - from);
}

/* Seconds in [0, t] with any of `bits` set in the reasons curve. */
static double bits_time(const Curve *curve, unsigned bits, double t) {
    double total = 0.0, rounds = 0.0, whole = 0.0, rest = t;
    if (curve->loop > 0.0) {
        rounds = floor(t / curve->loop);
        rest = t - rounds * curve->loop;
    }
    for (int i = 0; i < curve->count; i++) {
        if (!((unsigned)curve->points[i].value & bits)) continue;
        double from = curve->points[i].at, until = i + 1 < curve->count ? curve->points[i + 1].at : INFINITY;
        if (rest > from) total += fmin(rest, until) - from;
        if (curve->loop > from) whole += fmin(curve->loop, until) - from;
    }
    return rounds > 0.0 ? rounds * whole + total : total;
}

/* ---- time --------------------------------------------------------------------------------------------------------- */

static double monotonic(void) {
    if (manual_clock) return *manual_clock;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double scenario_time(void) { return monotonic() - origin_mono; }

static void pass_time(double seconds) {
    if (manual_clock) { *manual_clock += seconds; return; }
    struct timespec span = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
    nanosleep(&span, NULL);
}

/* ---- the script --------------------------------------------------------------------------------------------------- */

/* From now on the process is on the GPU, or is there no more. */
static void move_process(Gpu *gpu, char sign, unsigned pid, double at) {
    for (int i = 0; i < gpu->process_count; i++)
        if (gpu->processes[i].pid == pid && gpu->processes[i].until > at) gpu->processes[i].until = at;
    if (sign == '+' && gpu->process_count < MAX_PROCESSES)
        gpu->processes[gpu->process_count++] = (Process){.pid = pid, .from = at, .until = INFINITY, .sm = 40.0, .mig = -1};
}

/* A busy line is "unix_time gpu watts": from that moment on the GPU draws that power; or "unix_time gpu +pid" and "-pid": a process
   comes and goes. */
static void follow_busy_file(void) {
    if (!busy_path[0]) return;
    if (busy_file < 0 && (busy_file = open(busy_path, O_RDONLY | O_CLOEXEC)) < 0) return;
    char buffer[4096 + sizeof busy_rest];
    for (;;) {
        memcpy(buffer, busy_rest, busy_rest_length);
        ssize_t got = pread(busy_file, buffer + busy_rest_length, 4096, busy_read);
        if (got <= 0) return;
        busy_read += got;
        char *line = buffer, *end = buffer + busy_rest_length + (size_t)got, *stop;
        while ((stop = memchr(line, '\n', (size_t)(end - line)))) {
            double at, watts;
            int index;
            unsigned pid;
            char sign[2];
            *stop = '\0';
            if (sscanf(line, "%lf %d %1[+-]%u", &at, &index, sign, &pid) == 4 && index >= 0 && index < gpu_count)
                move_process(&gpus[index], sign[0], pid, at - origin_unix);
            else if (sscanf(line, "%lf %d %lf", &at, &index, &watts) == 3 && index >= 0 && index < gpu_count)
                add_point(&gpus[index].power, at - origin_unix, watts);
            line = stop + 1;
        }
        busy_rest_length = (size_t)(end - line) < sizeof busy_rest ? (size_t)(end - line) : 0;
        memcpy(busy_rest, line, busy_rest_length);
    }
}

static void open_clock(const char *path) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    manual_clock = at == MAP_FAILED ? NULL : at;
}

static void default_curve(Curve *curve, double value) { if (!curve->count) add_point(curve, 0.0, value); }

static int read_fault(Gpu *gpu, const char *text) {
    static const char *const kinds[] = {"call", "field", "value", "slow", "gone", "offset", "freeze"};
    static const char *const whens[] = {"time", "calls", "every"};
    char kind[16], when[16];
    Fault fault = {0};
    if (sscanf(text, "%15s %15s %lf %lf %47s %lf", kind, when, &fault.from, &fault.until, fault.target, &fault.value) != 6) return 0;
    int k = 0, w = 0;
    while (k < FAULT_KINDS && strcmp(kind, kinds[k])) k++;
    while (w < 3 && strcmp(when, whens[w])) w++;
    if (k == FAULT_KINDS || w == 3 || gpu->fault_count == MAX_FAULTS) return 0;
    fault.kind = (FaultKind)k;
    fault.when = (FaultWhen)w;
    gpu->faults[gpu->fault_count++] = fault;
    return 1;
}

static int read_answer(Gpu *gpu, const char *text) {
    if (gpu->answer_count == MAX_ANSWERS) return 0;
    Answer *answer = &gpu->answers[gpu->answer_count++];
    double *values = answer->values;
    return sscanf(text, "%55s %d %lf %lf %lf %lf", answer->target, &answer->code, values, values + 1, values + 2, values + 3) >= 2;
}

static int read_process(Gpu *gpu, const char *text) {
    if (gpu->process_count == MAX_PROCESSES) return 0;
    Process *process = &gpu->processes[gpu->process_count++];
    int named = 0;
    if (sscanf(text, "%u %lf %lf %lf %d %n", &process->pid, &process->from, &process->until, &process->sm, &process->mig, &named) < 5)
        return 0;
    snprintf(process->name, sizeof process->name, "%s", text + named);
    return 1;
}

static int read_mig(Gpu *gpu, const char *text) {
    if (gpu->mig_count == MAX_MIGS) return 0;
    Mig *mig = &gpu->migs[gpu->mig_count++];
    gpu->mig_mode = 1;
    return sscanf(text, "%95s %39s %lf %lf %u %u %u %u %u %lf", mig->uuid, mig->profile, &mig->from, &mig->until, &mig->gpu_instance,
                  &mig->compute_instance, &mig->multiprocessors, &mig->gpu_slices, &mig->compute_slices, &mig->memory_total) == 10;
}

static int read_statement(Gpu *gpu, const char *key, const char *rest) {
    double a = 0.0, b = 0.0;
    int numbers = sscanf(rest, "%lf %lf", &a, &b);
    if (!gpu) {
        if (!strcmp(key, "origin_unix")) { origin_unix = a; return numbers == 1; }
        if (!strcmp(key, "origin_mono")) { origin_mono = a; return numbers == 1; }
        if (!strcmp(key, "init")) { init_result = (int)a; return numbers == 1; }
        if (!strcmp(key, "driver")) return snprintf(driver, sizeof driver, "%s", rest) > 0;
        if (!strcmp(key, "busy")) return snprintf(busy_path, sizeof busy_path, "%s", rest) > 0;
        if (!strcmp(key, "clock")) { open_clock(rest); return manual_clock != NULL; }
        return 0;
    }
    if (!strcmp(key, "uuid")) return snprintf(gpu->uuid, sizeof gpu->uuid, "%s", rest) > 0;
    if (!strcmp(key, "name")) return snprintf(gpu->name, sizeof gpu->name, "%s", rest) > 0;
    if (!strcmp(key, "fault")) return read_fault(gpu, rest);
    if (!strcmp(key, "answer")) return read_answer(gpu, rest);
    if (!strcmp(key, "process")) return read_process(gpu, rest);
    if (!strcmp(key, "mig")) return read_mig(gpu, rest);
    if (numbers < 1) return 0;
    if (!strcmp(key, "arch")) { gpu->arch = (unsigned)a; return 1; }
    if (!strcmp(key, "step")) { gpu->step = a; return 1; }
    if (!strcmp(key, "phase")) { gpu->phase = a; return 1; }
    if (!strcmp(key, "sensor_window")) { gpu->sensor_window = a; return 1; }
    if (!strcmp(key, "counter_window")) { gpu->counter_window = a; return 1; }
    if (!strcmp(key, "counter_gain")) { gpu->counter_gain = a; return 1; }
    if (!strcmp(key, "base_mj")) { gpu->base_mj = a; return 1; }
    if (!strcmp(key, "limit")) { gpu->limit = a; return 1; }
    if (!strcmp(key, "memory_total")) { gpu->memory_total = a; return 1; }
    if (!strcmp(key, "slowdown")) { gpu->slowdown = a; return 1; }
    if (!strcmp(key, "margin")) { gpu->margin = (int)a; return 1; }
    if (!strcmp(key, "mig_mode")) { gpu->mig_mode = (int)a; return 1; }
    if (!strcmp(key, "gpm")) { gpu->gpm = (int)a; return 1; }
    if (!strcmp(key, "loop")) {
        Curve *all[] = {&gpu->power, &gpu->temperature, &gpu->utilization, &gpu->memory_used, &gpu->reasons, &gpu->clock};
        for (int i = 0; i < 6; i++) all[i]->loop = a;
        return 1;
    }
    if (!strcmp(key, "reset")) {
        if (gpu->reset_count == 16) return 0;
        gpu->resets[gpu->reset_count++] = a;
        return 1;
    }
    if (numbers < 2) return 0;
    if (!strcmp(key, "power")) { add_point(&gpu->power, a, b); return 1; }
    if (!strcmp(key, "temperature")) { add_point(&gpu->temperature, a, b); return 1; }
    if (!strcmp(key, "utilization")) { add_point(&gpu->utilization, a, b); return 1; }
    if (!strcmp(key, "memory_used")) { add_point(&gpu->memory_used, a, b); return 1; }
    if (!strcmp(key, "reasons")) { add_point(&gpu->reasons, a, b); return 1; }
    if (!strcmp(key, "clock_mhz")) { add_point(&gpu->clock, a, b); return 1; }
    if (!gpu->mig_count) return 0;
    Mig *mig = &gpu->migs[gpu->mig_count - 1];
    if (!strcmp(key, "mig_memory_used")) { add_point(&mig->memory_used, a, b); return 1; }
    if (!strcmp(key, "mig_activity")) { add_point(&mig->activity, a, b); return 1; }
    return 0;
}

/* The finer throttle counters moved between driver releases; before 575 there are none. */
static int fine_throttle_base(void) {
    int major = 0, minor = 0;
    if (sscanf(driver, "%d.%d", &major, &minor) < 1 || major < 575) return 0;
    return major * 1000 + minor <= 580065 ? 251 : 269;
}

static void forget_scenario(void) {
    for (int i = 0; i < MAX_GPUS; i++) {
        free(gpus[i].power.points);
        free(gpus[i].temperature.points);
        free(gpus[i].utilization.points);
        free(gpus[i].memory_used.points);
        free(gpus[i].reasons.points);
        free(gpus[i].clock.points);
        for (int m = 0; m < MAX_MIGS; m++) {
            free(gpus[i].migs[m].memory_used.points);
            free(gpus[i].migs[m].activity.points);
        }
    }
    memset(gpus, 0, sizeof gpus);
    if (busy_file >= 0) close(busy_file);
    if (manual_clock) munmap((void *)manual_clock, sizeof(double));
    manual_clock = NULL;
    busy_file = -1;
    busy_read = 0;
    busy_rest_length = 0;
    busy_path[0] = driver[0] = '\0';
    gpu_count = init_result = 0;
    origin_mono = origin_unix = 0.0;
}

static int read_script(void) {
    forget_scenario();
    const char *path = getenv("FAKE_NVML_SCRIPT");
    FILE *script = path ? fopen(path, "re") : NULL;
    if (!script) return DRIVER_NOT_LOADED;
    char line[1024];
    Gpu *gpu = NULL;
    int good = 1, number = 0;
    while (good && fgets(line, sizeof line, script)) {
        number++;
        line[strcspn(line, "\n")] = '\0';
        char key[32];
        int used = 0;
        if (sscanf(line, "%31s %n", key, &used) < 1 || key[0] == '#') continue;
        if (!strcmp(key, "gpu")) {
            if ((good = gpu_count < MAX_GPUS)) {
                gpu = &gpus[gpu_count++];
                *gpu = (Gpu){.arch = 8, .step = 0.1, .sensor_window = 0.1, .counter_gain = 1, .limit = 450, .memory_total = 24.0 * (1u << 30),
                             .slowdown = 97, .max_clocks = {3105, 3105, 10501}, .counted_step = -1};
            }
        } else {
            good = read_statement(gpu, key, line + used);
        }
    }
    fclose(script);
    if (!good) {
        fprintf(stderr, "fake_nvml: line %d of %s is not understood: %s\n", number, path, line);
        return UNKNOWN;
    }
    for (int i = 0; i < gpu_count; i++) {
        default_curve(&gpus[i].power, 50.0);
        default_curve(&gpus[i].temperature, 40.0);
        default_curve(&gpus[i].memory_used, 512.0 * (1u << 20));
        default_curve(&gpus[i].reasons, 0.0);
        default_curve(&gpus[i].clock, 1500.0);
        for (int m = 0; m < gpus[i].mig_count; m++) {
            default_curve(&gpus[i].migs[m].memory_used, 0.0);
            default_curve(&gpus[i].migs[m].activity, 0.0);
        }
    }
    fine_throttle = fine_throttle_base();
    return init_result;
}

/* ---- faults and entry --------------------------------------------------------------------------------------------- */

static int fault_holds(const Fault *fault, double t, unsigned long call) {
    if (fault->when == WHEN_TIME) return fault->from <= t && t < fault->until;
    if (fault->when == WHEN_CALLS) return fault->from <= (double)call && (double)call <= fault->until;
    return fault->from >= 1 && (call + (unsigned long)fault->until) % (unsigned long)fault->from == 0;
}

/* How often the card was gone until now: a handle from before is worth nothing after. */
static unsigned generation(const Gpu *gpu, double t) {
    unsigned times = 0;
    for (int i = 0; i < gpu->fault_count; i++)
        times += gpu->faults[i].kind == FAULT_GONE && gpu->faults[i].from <= t;
    return times;
}

static int failure(const Gpu *gpu, int function, double t) {
    for (int i = 0; i < gpu->fault_count; i++) {
        const Fault *fault = &gpu->faults[i];
        int meant = !strcmp(fault->target, "*") || !strcmp(fault->target, function_names[function]);
        if (!fault_holds(fault, t, gpu->calls[function])) continue;
        if (fault->kind == FAULT_GONE) return GPU_IS_LOST;
        if (fault->kind == FAULT_CALL && meant) return (int)fault->value;
    }
    return SUCCESS;
}

/* Takes the lock; `leave` gives it back. */
static int enter_gpu(int index, int function, Gpu **gpu, double *t) {
    pthread_mutex_lock(&lock);
    if (!references) return UNINITIALIZED;
    if (index < 0 || index >= gpu_count) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    (*gpu)->calls[function]++;
    *t = scenario_time();
    for (int i = 0; i < (*gpu)->fault_count; i++) {
        Fault fault = (*gpu)->faults[i];
        int meant = !strcmp(fault.target, "*") || !strcmp(fault.target, function_names[function]);
        if (fault.kind != FAULT_SLOW || !meant || !fault_holds(&fault, *t, (*gpu)->calls[function])) continue;
        pthread_mutex_unlock(&lock);
        pass_time(fault.value);
        pthread_mutex_lock(&lock);
        if (!references) return UNINITIALIZED;
        *t = scenario_time();
    }
    follow_busy_file();
    return failure(*gpu, function, *t);
}

/* What a handle of a MIG instance answers too; the rest exists for the whole GPU only. */
static int knows_instances(int function) {
    static const int known[] = {
        FN_nvmlDeviceGetName, FN_nvmlDeviceGetUUID, FN_nvmlDeviceGetMemoryInfo, FN_nvmlDeviceGetMemoryInfo_v2,
        FN_nvmlDeviceGetComputeRunningProcesses_v3, FN_nvmlDeviceIsMigDeviceHandle, FN_nvmlDeviceGetGpuInstanceId,
        FN_nvmlDeviceGetComputeInstanceId, FN_nvmlDeviceGetDeviceHandleFromMigDeviceHandle, FN_nvmlDeviceGetAttributes_v2,
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] == function) return 1;
    return 0;
}

/* The MIG instance of a handle; NULL for the handle of a GPU. A handle is GPU + 1, generation and instance + 1, 8 bits each. */
static Mig *mig_of(Gpu *gpu, Device device) { return device >> 16 ? &gpu->migs[(device >> 16) - 1] : NULL; }

static int exists(const Mig *mig, double t) { return mig->from <= t && t < mig->until; }

static int enter(Device device, int function, Gpu **gpu, double *t) {
    int result = enter_gpu((int)(device & 0xff) - 1, function, gpu, t);
    if (result != SUCCESS) return result;
    if ((device >> 8 & 0xff) != generation(*gpu, *t)) return GPU_IS_LOST;
    const Mig *mig = mig_of(*gpu, device);
    if (mig && !knows_instances(function)) return NOT_SUPPORTED;
    return mig && !exists(mig, *t) ? INVALID_ARGUMENT : SUCCESS;
}

static int leave(int result) {
    pthread_mutex_unlock(&lock);
    return result;
}

/* A fixed answer of this function for this argument (-1: it takes none), which then stands for what the curves would say. */
static const Answer *fixed(const Gpu *gpu, int function, int argument) {
    char target[56];
    if (!gpu->answer_count) return NULL;
    if (argument < 0) snprintf(target, sizeof target, "%s", function_names[function]);
    else snprintf(target, sizeof target, "%s/%d", function_names[function], argument);
    for (int i = 0; i < gpu->answer_count; i++)
        if (!strcmp(gpu->answers[i].target, target)) return &gpu->answers[i];
    return NULL;
}

#define ENTER(function) \
    Gpu *gpu; \
    double t; \
    int result = enter(device, FN_##function, &gpu, &t); \
    if (result != SUCCESS) return leave(result)

/* To be followed by what is done with the values. */
#define IF_FIXED(function, argument) \
    const Answer *given = fixed(gpu, FN_##function, argument); \
    if (given && given->code) return leave(given->code); \
    const double *values = given ? given->values : NULL; \
    if (values)

/* ---- what the sensors show ---------------------------------------------------------------------------------------- */

static long steps_done(const Gpu *gpu, double t) { return (long)floor((t - gpu->phase) / gpu->step + 1e-9); }

static double step_time(const Gpu *gpu, long step) { return gpu->phase + (double)step * gpu->step; }

static double last_reset(const Gpu *gpu, double t) {
    double latest = -INFINITY;
    for (int i = 0; i < gpu->reset_count; i++)
        if (gpu->resets[i] <= t && gpu->resets[i] > latest) latest = gpu->resets[i];
    return latest;
}

/* A counter that itself sees only the last `counter_window` seconds of each step and takes them for the whole. */
static double part_time_joules(Gpu *gpu, long steps) {
    while (gpu->counted_step < steps) {
        double until = step_time(gpu, ++gpu->counted_step);
        if (until > 0.0)
            gpu->counted_joules += gpu->step * mean(&gpu->power, until - gpu->counter_window, until);
    }
    return gpu->counted_joules;
}

static uint64_t counter_mj(Gpu *gpu, double t) {
    long steps = steps_done(gpu, t);
    double shown = step_time(gpu, steps), reset = last_reset(gpu, t), joules;
    if (gpu->counter_window > 0.0) {
        joules = part_time_joules(gpu, steps);
    } else if (reset == -INFINITY) {
        joules = shown > 0.0 ? integral(&gpu->power, shown) : 0.0;
    } else {
        joules = shown > reset ? integral(&gpu->power, shown) - integral(&gpu->power, reset) : 0.0;
    }
    double base = reset == -INFINITY ? gpu->base_mj : 0.0;
    return (uint64_t)(base + joules * gpu->counter_gain * 1000.0 + 1e-6);
}

static unsigned instant_mw(const Gpu *gpu, double t) {
    double shown = step_time(gpu, steps_done(gpu, t));
    double watts = gpu->sensor_window > 0.0 ? mean(&gpu->power, shown - gpu->sensor_window, shown) : value_at(&gpu->power, shown);
    return (unsigned)(watts * 1000.0 + 0.5);
}

static unsigned average_mw(const Gpu *gpu, double t) {
    double shown = step_time(gpu, steps_done(gpu, t));
    return (unsigned)(mean(&gpu->power, shown - 1.0, shown) * 1000.0 + 0.5);
}

static int answer_field(Gpu *gpu, FieldValue *field, double t, unsigned long call) {
    static const unsigned fine_bits[] = {0x20, 0x40, 0x80};
    int id = (int)field->field_id, fine = fine_throttle;
    field->timestamp = (int64_t)((origin_unix + step_time(gpu, steps_done(gpu, t))) * 1e6);
    field->value_type = TYPE_ULL;
    field->result = SUCCESS;
    field->value.ull = 0;
    if (field->scope_id && id <= 191) {
        field->result = NOT_SUPPORTED; /* of the module or its memory, not of the GPU */
    } else if (id == 191 || id == 83) {
        field->value.ull = counter_mj(gpu, t);
    } else if (id == 185 || id == 186) {
        field->value_type = TYPE_UINT;
        field->value.ui = id == 186 ? instant_mw(gpu, t) : average_mw(gpu, t);
    } else if (id >= 74 && id <= 76) {
        static const unsigned bits[] = {0x04, 0x60, 0x10};
        field->value.ull = (uint64_t)(bits_time(&gpu->reasons, bits[id - 74], t) * 1e9);
    } else if (id == 194 && gpu->margin) {
        field->value_type = TYPE_INT;
        field->value.ui = (uint32_t)SLOWDOWN_OFFSET;
    } else if (fine && id >= fine && id < fine + 3) {
        field->value.ull = (uint64_t)(bits_time(&gpu->reasons, fine_bits[id - fine], t) * 1e9);
    } else {
        field->result = NOT_SUPPORTED;
    }
    for (int i = 0; i < gpu->fault_count; i++) {
        const Fault *fault = &gpu->faults[i];
        const char *scope = strchr(fault->target, '/');
        if (atoi(fault->target) != id || (scope && (unsigned)atoi(scope + 1) != field->scope_id)) continue;
        if (!fault_holds(fault, t, call)) continue;
        if (fault->kind == FAULT_FIELD) field->result = (int)fault->value;
        if (fault->kind == FAULT_VALUE) {
            field->result = SUCCESS;
            if (fault->value < 0.0) field->value_type = TYPE_INT;
            if (field->value_type == TYPE_INT) field->value.ui = (uint32_t)(int32_t)fault->value;
            else if (field->value_type == TYPE_UINT) field->value.ui = (uint32_t)fault->value;
            else field->value.ull = (uint64_t)fault->value;
        }
        if (fault->kind == FAULT_OFFSET && field->value_type == TYPE_ULL) {
            double moved = (double)field->value.ull + fault->value;
            field->value.ull = moved > 0.0 ? (uint64_t)moved : 0;
        }
        if (fault->kind == FAULT_FREEZE && (id == 191 || id == 83)) field->value.ull = counter_mj(gpu, fault->value);
    }
    return field->result;
}

/* ---- the C ABI ---------------------------------------------------------------------------------------------------- */

static int copy_text(char *target, unsigned room, const char *text) {
    if (strlen(text) + 1 > room) return INSUFFICIENT_SIZE;
    strcpy(target, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    int result = references ? SUCCESS : read_script();
    if (result == SUCCESS) references++;
    return leave(result);
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    if (!references) return leave(UNINITIALIZED);
    references--;
    return leave(SUCCESS);
}

const char *nvmlErrorString(int result) {
    switch (result) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    pthread_mutex_lock(&lock);
    return leave(references ? copy_text(version, length, driver) : UNINITIALIZED);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    pthread_mutex_lock(&lock);
    if (!references) return leave(UNINITIALIZED);
    *count = (unsigned)gpu_count;
    return leave(SUCCESS);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) {
    Gpu *gpu;
    double t;
    int result = enter_gpu((int)index, FN_nvmlDeviceGetHandleByIndex_v2, &gpu, &t);
    if (result == SUCCESS) *device = (Device)(index + 1) | (Device)generation(gpu, t) << 8;
    return leave(result);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device) {
    for (int i = 0; i < gpu_count; i++) {
        if (strcmp(gpus[i].uuid, uuid)) continue;
        Gpu *gpu;
        double t;
        int result = enter_gpu(i, FN_nvmlDeviceGetHandleByUUID, &gpu, &t);
        if (result == SUCCESS) *device = (Device)(i + 1) | (Device)generation(gpu, t) << 8;
        return leave(result);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(Device device, char *name, unsigned length) {
    ENTER(nvmlDeviceGetName);
    const Mig *mig = mig_of(gpu, device);
    if (!mig) return leave(copy_text(name, length, gpu->name));
    if (!strcmp(mig->profile, "-")) return leave(NOT_SUPPORTED);
    char full[160];
    snprintf(full, sizeof full, "%s MIG %s", gpu->name, mig->profile);
    return leave(copy_text(name, length, full));
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned length) {
    ENTER(nvmlDeviceGetUUID);
    const Mig *mig = mig_of(gpu, device);
    return leave(copy_text(uuid, length, mig ? mig->uuid : gpu->uuid));
}

int nvmlDeviceGetArchitecture(Device device, unsigned *arch) {
    ENTER(nvmlDeviceGetArchitecture);
    *arch = gpu->arch;
    return leave(SUCCESS);
}

/* As NVML does it: success if any field was filled. */
int nvmlDeviceGetFieldValues(Device device, int count, FieldValue *values) {
    ENTER(nvmlDeviceGetFieldValues);
    int filled = 0;
    for (int i = 0; i < count; i++)
        filled += answer_field(gpu, &values[i], t, gpu->calls[FN_nvmlDeviceGetFieldValues]) == SUCCESS;
    return leave(filled ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *energy) {
    ENTER(nvmlDeviceGetTotalEnergyConsumption);
    *energy = counter_mj(gpu, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetPowerUsage(Device device, unsigned *power) {
    ENTER(nvmlDeviceGetPowerUsage);
    IF_FIXED(nvmlDeviceGetPowerUsage, -1) {
        *power = (unsigned)values[0];
        return leave(SUCCESS);
    }
    *power = average_mw(gpu, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetUtilizationRates(Device device, Utilization *utilization) {
    ENTER(nvmlDeviceGetUtilizationRates);
    if (gpu->mig_mode) return leave(NOT_SUPPORTED);
    IF_FIXED(nvmlDeviceGetUtilizationRates, -1) {
        *utilization = (Utilization){(unsigned)values[0], (unsigned)values[1]};
        return leave(SUCCESS);
    }
    double percent;
    if (gpu->utilization.count) {
        percent = value_at(&gpu->utilization, t);
    } else {
        double idle = gpu->power.points[0].value;
        percent = 100.0 * (value_at(&gpu->power, t) - idle) / fmax(gpu->limit - idle, 1.0);
    }
    utilization->gpu = (unsigned)fmin(fmax(percent + 0.5, 0.0), 100.0);
    utilization->memory = utilization->gpu / 2;
    return leave(SUCCESS);
}

int nvmlDeviceGetMemoryInfo(Device device, MemoryV1 *memory) {
    ENTER(nvmlDeviceGetMemoryInfo);
    const Mig *mig = mig_of(gpu, device);
    if (mig) {
        unsigned long long total = (unsigned long long)mig->memory_total, used = (unsigned long long)value_at(&mig->memory_used, t);
        *memory = (MemoryV1){total, total - used, used};
        return leave(SUCCESS);
    }
    IF_FIXED(nvmlDeviceGetMemoryInfo, -1) {
        *memory = (MemoryV1){(unsigned long long)values[0], (unsigned long long)values[1], (unsigned long long)values[2]};
        return leave(SUCCESS);
    }
    unsigned long long total = (unsigned long long)gpu->memory_total, used = (unsigned long long)value_at(&gpu->memory_used, t);
    *memory = (MemoryV1){total, total - used, used};
    return leave(SUCCESS);
}

int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *memory) {
    ENTER(nvmlDeviceGetMemoryInfo_v2);
    IF_FIXED(nvmlDeviceGetMemoryInfo_v2, -1) if (!mig_of(gpu, device)) {
        *memory = (MemoryV2){memory->version, (unsigned long long)values[0], (unsigned long long)values[1], (unsigned long long)values[2], (unsigned long long)values[3]};
        return leave(SUCCESS);
    }
    if (memory->version != 0x02000028) return leave(VERSION_MISMATCH);
    const Mig *mig = mig_of(gpu, device);
    unsigned long long total = (unsigned long long)(mig ? mig->memory_total : gpu->memory_total);
    unsigned long long used = (unsigned long long)value_at(mig ? &mig->memory_used : &gpu->memory_used, t);
    *memory = (MemoryV2){memory->version, total, 0, total - used, used};
    return leave(SUCCESS);
}

int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *temperature) {
    ENTER(nvmlDeviceGetTemperature);
    IF_FIXED(nvmlDeviceGetTemperature, sensor) {
        *temperature = (unsigned)values[0];
        return leave(SUCCESS);
    }
    if (sensor) return leave(INVALID_ARGUMENT);
    *temperature = (unsigned)value_at(&gpu->temperature, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetTemperatureV(Device device, TemperatureV1 *temperature) {
    ENTER(nvmlDeviceGetTemperatureV);
    IF_FIXED(nvmlDeviceGetTemperatureV, temperature->sensor) {
        temperature->temperature = (int)values[0];
        return leave(SUCCESS);
    }
    if (temperature->version != 0x0100000C) return leave(VERSION_MISMATCH);
    temperature->temperature = (int)value_at(&gpu->temperature, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetTemperatureThreshold(Device device, int threshold, unsigned *temperature) {
    ENTER(nvmlDeviceGetTemperatureThreshold);
    IF_FIXED(nvmlDeviceGetTemperatureThreshold, threshold) {
        *temperature = (unsigned)values[0];
        return leave(SUCCESS);
    }
    if (threshold != 1 || gpu->margin) return leave(NOT_SUPPORTED);
    *temperature = (unsigned)gpu->slowdown;
    return leave(SUCCESS);
}

int nvmlDeviceGetMarginTemperature(Device device, MarginV1 *margin) {
    ENTER(nvmlDeviceGetMarginTemperature);
    IF_FIXED(nvmlDeviceGetMarginTemperature, -1) {
        margin->margin = (int)values[0];
        return leave(SUCCESS);
    }
    if (margin->version != 0x01000008) return leave(VERSION_MISMATCH);
    if (!gpu->margin) return leave(NOT_SUPPORTED);
    margin->margin = (int)(gpu->slowdown + SLOWDOWN_OFFSET - value_at(&gpu->temperature, t));
    return leave(SUCCESS);
}

int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned *limit) {
    ENTER(nvmlDeviceGetEnforcedPowerLimit);
    IF_FIXED(nvmlDeviceGetEnforcedPowerLimit, -1) {
        *limit = (unsigned)values[0];
        return leave(SUCCESS);
    }
    *limit = (unsigned)(gpu->limit * 1000.0);
    return leave(SUCCESS);
}

int nvmlDeviceGetPowerManagementLimitConstraints(Device device, unsigned *least, unsigned *most) {
    ENTER(nvmlDeviceGetPowerManagementLimitConstraints);
    IF_FIXED(nvmlDeviceGetPowerManagementLimitConstraints, -1) {
        *least = (unsigned)values[0];
        *most = (unsigned)values[1];
        return leave(SUCCESS);
    }
    *least = (unsigned)(gpu->limit * 200.0);
    *most = (unsigned)(gpu->limit * 1000.0);
    return leave(SUCCESS);
}

int nvmlDeviceGetClockInfo(Device device, int type, unsigned *mhz) {
    ENTER(nvmlDeviceGetClockInfo);
    IF_FIXED(nvmlDeviceGetClockInfo, type) {
        *mhz = (unsigned)values[0];
        return leave(SUCCESS);
    }
    if (type < 0 || type > 2) return leave(INVALID_ARGUMENT);
    *mhz = type == 2 ? gpu->max_clocks[2] : (unsigned)value_at(&gpu->clock, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetMaxClockInfo(Device device, int type, unsigned *mhz) {
    ENTER(nvmlDeviceGetMaxClockInfo);
    IF_FIXED(nvmlDeviceGetMaxClockInfo, type) {
        *mhz = (unsigned)values[0];
        return leave(SUCCESS);
    }
    if (type < 0 || type > 2) return leave(INVALID_ARGUMENT);
    *mhz = gpu->max_clocks[type];
    return leave(SUCCESS);
}

int nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long *reasons) {
    ENTER(nvmlDeviceGetCurrentClocksEventReasons);
    IF_FIXED(nvmlDeviceGetCurrentClocksEventReasons, -1) {
        *reasons = (unsigned long long)values[0];
        return leave(SUCCESS);
    }
    *reasons = (unsigned long long)value_at(&gpu->reasons, t);
    return leave(SUCCESS);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *reasons) {
    ENTER(nvmlDeviceGetCurrentClocksThrottleReasons);
    IF_FIXED(nvmlDeviceGetCurrentClocksThrottleReasons, -1) {
        *reasons = (unsigned long long)values[0];
        return leave(SUCCESS);
    }
    *reasons = (unsigned long long)value_at(&gpu->reasons, t);
    return leave(SUCCESS);
}

/* Of every half second in which a process used the SMs, the ones after `last_seen`, as the driver's buffer has them. */
int nvmlDeviceGetProcessUtilization(Device device, ProcessSample *samples, unsigned *count, unsigned long long last_seen) {
    ENTER(nvmlDeviceGetProcessUtilization);
    if (gpu->mig_mode) return leave(NOT_SUPPORTED);
    unsigned room = samples ? *count : 0, found = 0;
    for (int i = 0; i < gpu->process_count; i++) {
        const Process *process = &gpu->processes[i];
        double last = fmin(process->until, t);
        for (double at = fmax(process->from, t - 60.0) + 0.5; process->sm > 0.0 && at <= last; at += 0.5) {
            unsigned long long shown = (unsigned long long)((origin_unix + at) * 1e6);
            if (shown <= last_seen) continue;
            if (found < room) samples[found] = (ProcessSample){process->pid, shown, (unsigned)process->sm, 1, 0, 0};
            found++;
        }
    }
    *count = found;
    if (!found) return leave(NOT_FOUND);
    return leave(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, ProcessInfo *infos) {
    ENTER(nvmlDeviceGetComputeRunningProcesses_v3);
    const Mig *asked = mig_of(gpu, device);
    unsigned room = infos ? *count : 0, found = 0;
    for (int i = 0; i < gpu->process_count; i++) {
        const Process *process = &gpu->processes[i];
        if (t < process->from || t >= process->until) continue;
        const Mig *mig = process->mig >= 0 && process->mig < gpu->mig_count ? &gpu->migs[process->mig] : NULL;
        if (asked && mig != asked) continue;
        if (found < room)
            infos[found] = (ProcessInfo){process->pid, 1u << 30, mig ? mig->gpu_instance : NO_INSTANCE,
                                         mig ? mig->compute_instance : NO_INSTANCE};
        found++;
    }
    *count = found;
    return leave(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}

/* ---- MIG ---------------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending) {
    ENTER(nvmlDeviceGetMigMode);
    IF_FIXED(nvmlDeviceGetMigMode, -1) {
        *current = (unsigned)values[0];
        *pending = (unsigned)values[1];
        return leave(SUCCESS);
    }
    if (gpu->arch != 7 && gpu->arch < 9) return leave(NOT_SUPPORTED);
    *current = *pending = (unsigned)gpu->mig_mode;
    return leave(SUCCESS);
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count) {
    ENTER(nvmlDeviceGetMaxMigDeviceCount);
    *count = gpu->mig_mode ? MAX_MIGS - 1 : 0;
    return leave(SUCCESS);
}

/* Indices count the instances that exist, so that an instance's index changes when one before it is destroyed. */
int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *instance) {
    ENTER(nvmlDeviceGetMigDeviceHandleByIndex);
    unsigned at = 0;
    for (int i = 0; i < gpu->mig_count; i++) {
        if (!exists(&gpu->migs[i], t) || at++ != index) continue;
        *instance = device | (Device)(i + 1) << 16;
        return leave(SUCCESS);
    }
    return leave(gpu->mig_mode && index < MAX_MIGS - 1 ? NOT_FOUND : INVALID_ARGUMENT);
}

int nvmlDeviceIsMigDeviceHandle(Device device, unsigned *is_instance) {
    ENTER(nvmlDeviceIsMigDeviceHandle);
    *is_instance = mig_of(gpu, device) != NULL;
    return leave(SUCCESS);
}

int nvmlDeviceGetGpuInstanceId(Device device, unsigned *id) {
    ENTER(nvmlDeviceGetGpuInstanceId);
    const Mig *mig = mig_of(gpu, device);
    if (mig) *id = mig->gpu_instance;
    return leave(mig ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetComputeInstanceId(Device device, unsigned *id) {
    ENTER(nvmlDeviceGetComputeInstanceId);
    const Mig *mig = mig_of(gpu, device);
    if (mig) *id = mig->compute_instance;
    return leave(mig ? SUCCESS : NOT_SUPPORTED);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device device, Device *parent) {
    ENTER(nvmlDeviceGetDeviceHandleFromMigDeviceHandle);
    if (!mig_of(gpu, device)) return leave(INVALID_ARGUMENT);
    *parent = device & 0xffff;
    return leave(SUCCESS);
}

int nvmlDeviceGetAttributes_v2(Device device, Attributes *attributes) {
    ENTER(nvmlDeviceGetAttributes_v2);
    const Mig *mig = mig_of(gpu, device);
    if (!mig) return leave(NOT_SUPPORTED);
    *attributes = (Attributes){.multiprocessors = mig->multiprocessors, .gpu_slices = mig->gpu_slices,
                               .compute_slices = mig->compute_slices, .memory_mib = (unsigned long long)(mig->memory_total / (1 << 20))};
    return leave(SUCCESS);
}

int nvmlGpmQueryDeviceSupport(Device device, GpmSupport *support) {
    ENTER(nvmlGpmQueryDeviceSupport);
    if (support->version != 1) return leave(VERSION_MISMATCH);
    support->supported = (unsigned)gpu->gpm;
    return leave(SUCCESS);
}

int nvmlGpmSampleAlloc(GpmSample *sample) {
    *sample = calloc(1, sizeof **sample);
    return *sample ? SUCCESS : UNKNOWN;
}

int nvmlGpmSampleFree(GpmSample sample) {
    free(sample);
    return SUCCESS;
}

int nvmlGpmMigSampleGet(Device device, unsigned gpu_instance, GpmSample sample) {
    ENTER(nvmlGpmMigSampleGet);
    if (!gpu->gpm) return leave(NOT_SUPPORTED);
    for (int i = 0; i < gpu->mig_count; i++) {
        if (gpu->migs[i].gpu_instance != gpu_instance || !exists(&gpu->migs[i], t)) continue;
        sample->gpu = (int)(device & 0xff) - 1;
        sample->gpu_instance = gpu_instance;
        sample->at = t;
        return leave(SUCCESS);
    }
    return leave(NOT_FOUND);
}

/* Of all metrics only NVML_GPM_METRIC_SM_UTIL, 2: percent of the instance's SMs that were busy between two samples. */
int nvmlGpmMetricsGet(GpmMetricsGet *get) {
    pthread_mutex_lock(&lock);
    if (!references) return leave(UNINITIALIZED);
    if (get->version != 1) return leave(VERSION_MISMATCH);
    const GpmSample first = get->first, second = get->second;
    if (first->gpu != second->gpu || first->gpu_instance != second->gpu_instance || second->at - first->at < 0.1)
        return leave(INVALID_ARGUMENT);
    const Gpu *gpu = &gpus[first->gpu];
    for (unsigned i = 0; i < get->count; i++) {
        GpmMetric *metric = &get->metrics[i];
        metric->result = metric->id == 2 ? SUCCESS : NOT_SUPPORTED;
        for (int m = 0; m < gpu->mig_count && metric->id == 2; m++)
            if (gpu->migs[m].gpu_instance == first->gpu_instance)
                metric->value = 100.0 * mean(&gpu->migs[m].activity, first->at, second->at);
    }
    return leave(SUCCESS);
}

/* Faults of it are those of the first GPU. */
int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
    Gpu *gpu;
    double t;
    int result = enter_gpu(0, FN_nvmlSystemGetProcessName, &gpu, &t);
    if (result != SUCCESS) return leave(result);
    for (int g = 0; g < gpu_count; g++)
        for (int i = 0; i < gpus[g].process_count; i++)
            if (gpus[g].processes[i].pid == pid && gpus[g].processes[i].name[0])
                return leave(copy_text(name, length, gpus[g].processes[i].name));
    return leave(NOT_FOUND);
}

/* Not NVML: how often a function was called on a GPU since the script was read; -1 for a name that is not known. */
long fakeNvmlCalls(const char *function, int index) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < FN_COUNT; i++)
        if (!strcmp(function, function_names[i]) && index >= 0 && index < gpu_count) {
            long calls = (long)gpus[index].calls[i];
            pthread_mutex_unlock(&lock);
            return calls;
        }
    return leave(-1);
}
