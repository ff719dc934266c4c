/* A stand-in for libamd_smi.so that plays a scripted scenario whose joules are exactly known.
 *
 * Every quantity is a piecewise constant curve over seconds since the script's origin. The invariant: the energy accumulator shows
 * the exact integral of the power up to its own last step, in whole counts of 2^-16 J, and the throttle accumulators the samples
 * (1,000 a second) in which their limit held.
 *
 * The script is text, one statement a line, named by the environment variable FAKE_AMDSMI_SCRIPT and read at every first
 * amdsmi_init; script.py writes it. Time is CLOCK_MONOTONIC, or a double in the file of a `clock` statement. The structures come
 * from the package itself (describe.py), and so do the functions that answer "not supported" (library.py).
 */
#define _GNU_SOURCE
#include "amdsmi_structs.h"
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVAL = 1, NOT_SUPPORTED = 2, OUT_OF_RESOURCES = 15, NOT_FOUND = 31, NOT_INIT = 32 };
enum { MAX_GPUS = 8, MAX_POINTS = 64, MAX_FAULTS = 32, MAX_PROCESSES = 512, MAX_ABSENT = 24, SAMPLES_A_SECOND = 1000 };
enum { POWER, TEMPERATURE, ACTIVITY, MEMORY_USED, CLOCK, PPT, SOCKET, PROCHOT, BITS, CURVES };
static const char *const curve_names[CURVES] = {"power", "temperature", "activity", "memory_used", "clock_mhz",
                                                "ppt", "socket", "prochot", "bits"};
static const double JOULES_PER_COUNT = 1.0 / 65536.0;

typedef struct { double at[MAX_POINTS], value[MAX_POINTS]; int count; } Curve;
typedef struct { char function[64]; int code; double from, until; } Fault;
typedef struct { unsigned pid; uint64_t vram; char name[64]; } Process;
typedef struct {
    char uuid[64], name[96], absent[MAX_ABSENT][24];
    unsigned target;
    int absent_count, fault_count, process_count, reset_count, wrap_bits;
    double step, resolution, cap, critical, clock_max, resets[8];
    uint64_t base_counts, memory_total;
    Curve curves[CURVES];
    Fault faults[MAX_FAULTS];
    Process processes[MAX_PROCESSES];
} Gpu;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Gpu gpus[MAX_GPUS];
static int gpu_count, references, init_code;
static double origin;
static volatile double *manual_clock;

static double now(void)
{
    struct timespec at;
    if (manual_clock) return *manual_clock - origin;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9 - origin;
}

static double value_at(const Curve *curve, double at)
{
    double value = curve->count ? curve->value[0] : 0.0;
    for (int i = 0; i < curve->count && curve->at[i] <= at; i++) value = curve->value[i];
    return value;
}

static double integral(const Curve *curve, double from, double until)
{
    double total = 0.0;
    for (int i = 0; i < curve->count; i++) {
        double begin = fmax(from, i ? curve->at[i] : -1e18);
        double end = fmin(until, i + 1 < curve->count ? curve->at[i + 1] : 1e18);
        if (end > begin) total += curve->value[i] * (end - begin);
    }
    return total;
}

static void read_clock(const char *path)
{
    int file = open(path, O_RDONLY);
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    manual_clock = shared == MAP_FAILED ? NULL : shared;
}

static void fail(const char *line)
{
    fprintf(stderr, "fake libamd_smi: cannot read the statement: %s\n", line);
    abort();
}

static void read_statement(char *line)
{
    char word[32], text[256] = "";
    double a = 0, b = 0;
    int length = 0, code = 0;
    Gpu *gpu = gpu_count ? &gpus[gpu_count - 1] : NULL;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "%31s %n", word, &length) != 1) return;
    const char *rest = line + length;
    if (!strcmp(word, "clock")) { read_clock(rest); return; }
    if (!strcmp(word, "origin")) { origin = atof(rest); return; }
    if (!strcmp(word, "init")) { init_code = atoi(rest); return; }
    if (!strcmp(word, "gpu") && gpu_count < MAX_GPUS) {
        gpu = &gpus[gpu_count++];
        memset(gpu, 0, sizeof *gpu);
        if (sscanf(rest, "%63s %x %95[^\n]", gpu->uuid, &gpu->target, gpu->name) != 3) fail(line);
        return;
    }
    if (!gpu) fail(line);
    for (int i = 0; i < CURVES; i++)
        if (!strcmp(word, curve_names[i])) {
            Curve *curve = &gpu->curves[i];
            if (curve->count == MAX_POINTS || sscanf(rest, "%lf %lf", &a, &b) != 2) fail(line);
            curve->at[curve->count] = a;
            curve->value[curve->count++] = b;
            return;
        }
    if (!strcmp(word, "step")) gpu->step = atof(rest);
    else if (!strcmp(word, "resolution")) gpu->resolution = atof(rest);
    else if (!strcmp(word, "base_counts")) gpu->base_counts = strtoull(rest, NULL, 10);
    else if (!strcmp(word, "memory_total")) gpu->memory_total = strtoull(rest, NULL, 10);
    else if (!strcmp(word, "cap")) gpu->cap = atof(rest);
    else if (!strcmp(word, "critical")) gpu->critical = atof(rest);
    else if (!strcmp(word, "clock_max")) gpu->clock_max = atof(rest);
    else if (!strcmp(word, "wrap_bits")) gpu->wrap_bits = atoi(rest);
    else if (!strcmp(word, "reset") && gpu->reset_count < 8) gpu->resets[gpu->reset_count++] = atof(rest);
    else if (!strcmp(word, "absent") && gpu->absent_count < MAX_ABSENT)
        snprintf(gpu->absent[gpu->absent_count++], sizeof gpu->absent[0], "%.23s", rest);
    else if (!strcmp(word, "fails") && gpu->fault_count < MAX_FAULTS
             && sscanf(rest, "%63s %d %lf %lf", text, &code, &a, &b) == 4) {
        Fault *fault = &gpu->faults[gpu->fault_count++];
        snprintf(fault->function, sizeof fault->function, "%.63s", text);
        fault->code = code, fault->from = a, fault->until = b;
    } else if (!strcmp(word, "process") && gpu->process_count < MAX_PROCESSES) {
        Process *process = &gpu->processes[gpu->process_count++];
        unsigned long long vram = 0;
        if (sscanf(rest, "%u %llu %63s", &process->pid, &vram, process->name) < 2) fail(line);
        process->vram = vram;
    } else fail(line);
}

static void read_script(void)
{
    const char *path = getenv("FAKE_AMDSMI_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    gpu_count = init_code = 0;
    origin = 0;
    manual_clock = NULL;
    if (!file) return;
    while (fgets(line, sizeof line, file)) read_statement(line);
    fclose(file);
}

int amdsmi_init(uint64_t flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    if (!references) read_script();
    if (!init_code) references++;
    int code = init_code;
    pthread_mutex_unlock(&lock);
    return code;
}

int amdsmi_shut_down(void)
{
    pthread_mutex_lock(&lock);
    if (references) references--;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* A socket's handle is 100 + its index, a processor's 200: each GPU is a socket of its own. */
int amdsmi_get_socket_handles(uint32_t *count, uintptr_t *handles)
{
    if (!references) return NOT_INIT;
    for (int i = 0; handles && i < gpu_count; i++) handles[i] = 100 + (uintptr_t)i;
    *count = (uint32_t)gpu_count;
    return SUCCESS;
}

/* Two processors each, as a GPU in two partitions has: the second is a part of the first. */
int amdsmi_get_processor_handles(uintptr_t socket, uint32_t *count, uintptr_t *handles)
{
    if (!references || socket < 100 || socket >= 100 + (uintptr_t)gpu_count) return NOT_FOUND;
    for (int i = 0; handles && i < 2; i++) handles[i] = socket + 100 + (uintptr_t)i * 100;
    *count = 2;
    return SUCCESS;
}

static int find(uintptr_t handle, const char *function, Gpu **found)
{
    if (!references) return NOT_INIT;
    if (handle < 200 || handle >= 200 + (uintptr_t)gpu_count) return NOT_FOUND;
    Gpu *gpu = *found = &gpus[handle - 200];
    double at = now();
    for (int i = 0; i < gpu->fault_count; i++) {
        const Fault *fault = &gpu->faults[i];
        if ((!strcmp(fault->function, function) || !strcmp(fault->function, "*")) && fault->from <= at && at < fault->until)
            return fault->code;
    }
    return SUCCESS;
}
#define FIND(handle) Gpu *gpu; int code = find(handle, __func__, &gpu); if (code) return code

static int is_absent(const Gpu *gpu, const char *name)
{
    for (int i = 0; i < gpu->absent_count; i++)
        if (!strcmp(gpu->absent[i], name)) return 1;
    return 0;
}

static uint64_t accumulator(const Gpu *gpu)
{
    double until = now(), since = 0.0;
    uint64_t base = gpu->base_counts;
    if (gpu->step > 0) until = floor(until / gpu->step + 1e-9) * gpu->step;
    for (int i = 0; i < gpu->reset_count; i++)
        if (gpu->resets[i] <= until && gpu->resets[i] >= since) since = gpu->resets[i], base = 0;
    uint64_t counts = base + (uint64_t)floor(integral(&gpu->curves[POWER], since, until) / JOULES_PER_COUNT + 1e-6);
    return gpu->wrap_bits ? counts & ((1ULL << gpu->wrap_bits) - 1) : counts;
}

static uint64_t samples(const Gpu *gpu, int curve)
{
    double until = floor(now() * SAMPLES_A_SECOND + 1e-6) / SAMPLES_A_SECOND;
    return (uint64_t)floor(1000.0 + integral(&gpu->curves[curve], 0.0, until) * SAMPLES_A_SECOND + 1e-6);
}

int amdsmi_get_gpu_device_uuid(uintptr_t handle, uint32_t *length, char *uuid)
{
    FIND(handle);
    snprintf(uuid, *length, "%s", gpu->uuid);
    return SUCCESS;
}

int amdsmi_get_gpu_device_bdf(uintptr_t handle, amdsmi_bdf_t *bdf)
{
    FIND(handle);
    uint64_t bus = 3 + (handle - 200);
    uint64_t value = bus << 8;
    memcpy(bdf, &value, sizeof value);
    return SUCCESS;
}

int amdsmi_get_gpu_asic_info(uintptr_t handle, amdsmi_asic_info_t *info)
{
    FIND(handle);
    memset(info, 0, sizeof *info);
    snprintf(info->market_name, sizeof info->market_name, "%s", gpu->name);
    info->target_graphics_version = gpu->target;
    return SUCCESS;
}

int amdsmi_get_gpu_driver_info(uintptr_t handle, amdsmi_driver_info_t *info)
{
    FIND(handle);
    memset(info, 0, sizeof *info);
    snprintf(info->driver_version, sizeof info->driver_version, "6.14.14");
    snprintf(info->driver_name, sizeof info->driver_name, "amdgpu");
    return SUCCESS;
}

int amdsmi_get_energy_count(uintptr_t handle, uint64_t *count, float *resolution, uint64_t *at)
{
    FIND(handle);
    *count = is_absent(gpu, "energy") ? UINT64_MAX : accumulator(gpu);
    *resolution = (float)gpu->resolution;
    *at = (uint64_t)((now() + origin) * 1e9);
    return SUCCESS;
}

int amdsmi_get_gpu_metrics_info(uintptr_t handle, amdsmi_gpu_metrics_t *metrics)
{
    FIND(handle);
    memset(metrics, 0xFF, sizeof *metrics);
    metrics->system_clock_counter = (uint64_t)((now() + origin) * 1e9);
    if (is_absent(gpu, "zero_energy")) metrics->energy_accumulator = 0;
    else if (!is_absent(gpu, "energy")) metrics->energy_accumulator = accumulator(gpu);
    uint16_t watts = (uint16_t)lround(value_at(&gpu->curves[POWER], now()));
    if (!is_absent(gpu, "power")) metrics->current_socket_power = watts;
    if (!is_absent(gpu, "mean_power")) metrics->average_socket_power = watts;
    if (!is_absent(gpu, "residency")) {
        metrics->accumulation_counter = 5000 + (uint64_t)floor(now() * SAMPLES_A_SECOND + 1e-6);
        metrics->ppt_residency_acc = samples(gpu, PPT);
        metrics->socket_thm_residency_acc = samples(gpu, SOCKET);
        metrics->vr_thm_residency_acc = 0;
        metrics->hbm_thm_residency_acc = 0;
        metrics->prochot_residency_acc = samples(gpu, PROCHOT);
    }
    if (!is_absent(gpu, "bits")) metrics->indep_throttle_status = (uint64_t)value_at(&gpu->curves[BITS], now());
    return SUCCESS;
}

int amdsmi_get_power_info(uintptr_t handle, amdsmi_power_info_t *info)
{
    FIND(handle);
    memset(info, 0xFF, sizeof *info);
    uint32_t watts = (uint32_t)lround(value_at(&gpu->curves[POWER], now()));
    if (!is_absent(gpu, "power")) info->current_socket_power = watts;
    if (!is_absent(gpu, "mean_power")) info->average_socket_power = watts;
    return SUCCESS;
}

int amdsmi_get_power_cap_info(uintptr_t handle, uint32_t sensor, amdsmi_power_cap_info_t *info)
{
    FIND(handle);
    if (sensor || is_absent(gpu, "cap")) return NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    info->power_cap = info->max_power_cap = (uint64_t)(gpu->cap * 1e6);
    return SUCCESS;
}

int amdsmi_get_gpu_activity(uintptr_t handle, amdsmi_engine_usage_t *usage)
{
    FIND(handle);
    memset(usage, 0xFF, sizeof *usage);
    if (!is_absent(gpu, "activity")) usage->gfx_activity = (uint32_t)value_at(&gpu->curves[ACTIVITY], now());
    return SUCCESS;
}

int amdsmi_get_gpu_memory_total(uintptr_t handle, uint32_t type, uint64_t *bytes)
{
    FIND(handle);
    if (type) return INVAL;
    *bytes = is_absent(gpu, "memory") ? UINT64_MAX : gpu->memory_total;
    return SUCCESS;
}

int amdsmi_get_gpu_memory_usage(uintptr_t handle, uint32_t type, uint64_t *bytes)
{
    FIND(handle);
    if (type) return INVAL;
    *bytes = is_absent(gpu, "memory") ? UINT64_MAX : (uint64_t)value_at(&gpu->curves[MEMORY_USED], now());
    return SUCCESS;
}

/* Sensors: 0 edge, 1 hot spot; an `absent hotspot` leaves the edge, ten degrees cooler. */
int amdsmi_get_temp_metric(uintptr_t handle, uint32_t sensor, uint32_t metric, int64_t *celsius)
{
    FIND(handle);
    int has_hotspot = !is_absent(gpu, "hotspot");
    if (sensor > 1 || is_absent(gpu, "temperature") || (sensor == 1) != has_hotspot) return NOT_SUPPORTED;
    if (metric == 0) *celsius = (int64_t)value_at(&gpu->curves[TEMPERATURE], now()) - (has_hotspot ? 0 : 10);
    else if (metric == 5 && gpu->critical > 0) *celsius = (int64_t)gpu->critical;
    else return NOT_SUPPORTED;
    return SUCCESS;
}

int amdsmi_get_clock_info(uintptr_t handle, uint32_t type, amdsmi_clk_info_t *info)
{
    FIND(handle);
    if (type != 0 && type != 4) return NOT_SUPPORTED;
    memset(info, 0xFF, sizeof *info);
    if (is_absent(gpu, "clock")) return SUCCESS;
    info->clk = type ? 900 : (uint32_t)value_at(&gpu->curves[CLOCK], now());
    info->max_clk = type ? 1300 : (uint32_t)gpu->clock_max;
    return SUCCESS;
}

int amdsmi_get_gpu_process_list(uintptr_t handle, uint32_t *count, amdsmi_proc_info_t *list)
{
    FIND(handle);
    uint32_t room = *count;
    for (uint32_t i = 0; i < room && i < (uint32_t)gpu->process_count; i++) {
        memset(&list[i], 0, sizeof list[i]);
        list[i].pid = gpu->processes[i].pid;
        list[i].memory_usage.vram_mem = list[i].mem = gpu->processes[i].vram;
        snprintf(list[i].name, sizeof list[i].name, "%s", gpu->processes[i].name);
    }
    *count = (uint32_t)gpu->process_count;
    return room < (uint32_t)gpu->process_count ? OUT_OF_RESOURCES : SUCCESS;
}

#include "amdsmi_others.h"
