/* Counts the instructions that qemu executes, into a file that another process may read at any time.
 *
 * A TCG plugin (qemu 7.2, plugin API version 1). Its few prototypes are declared here, so that no qemu header is
 * needed: https://www.qemu.org/docs/master/devel/tcg-plugins.html and include/qemu/qemu-plugin.h of qemu 7.2.
 *
 *     qemu-aarch64 -plugin counter.so,out=FILE program
 *
 * FILE holds one native uint64. A translation block runs to its end unless an instruction in it faults, so adding its
 * length once per execution is exact up to faults, and far cheaper than a call per instruction. The addition is not
 * atomic: several threads that compute at once lose counts.
 */

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_vcpu_tb_trans_cb_t cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, enum qemu_plugin_op op, void *ptr,
                                              uint64_t imm);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = 1;

static uint64_t *counter;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, counter, qemu_plugin_tb_n_insns(tb));
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
        return 1;
    }
    int file = open(argv[0] + 4, O_RDWR);
    if (file < 0) {
        return 1;
    }
    void *page = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page == MAP_FAILED) {
        return 1;
    }
    counter = page;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
