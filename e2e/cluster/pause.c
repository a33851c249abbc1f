// The process that holds a pod's namespaces: waits for its end, and for the ends of orphans.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

int main(void) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  for (;;) {
    while (waitpid(-1, 0, 0) > 0) {}
    pause();
  }
}
