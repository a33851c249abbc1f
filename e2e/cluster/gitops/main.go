// gitops judges objects as Argo CD and Flux would.
//
//	gitops HEALTH.lua < cases.jsonl
//
// Each line is {"state", "kstatus", "argo", "object"}. The verdict of kstatus comes from sigs.k8s.io/cli-utils, which Flux and
// `helm --wait` use; that of Argo CD from its own packages, with the script as an override in its configuration. Prints each wrong verdict and a count; exit code 1 if there is one.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	argo "github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	engine "github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type testcase struct {
	State   string
	Kstatus string
	Argo    string
	Object  json.RawMessage
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: gitops HEALTH.lua < cases.jsonl"))
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	total, wrong := 0, 0
	for lines.Scan() {
		var c testcase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fail(err)
		}
		total++
		object := &unstructured.Unstructured{}
		// Kubernetes' own reader: integers stay integers.
		if err := utiljson.Unmarshal(c.Object, &object.Object); err != nil {
			fail(err)
		}
		about := fmt.Sprintf("%s %s (%s)", object.GetKind(), object.GetName(), c.State)
		result, err := status.Compute(object)
		if err != nil {
			fail(fmt.Errorf("%s: %w", about, err))
		}
		if string(result.Status) != c.Kstatus {
			wrong++
			fmt.Printf("%s: kstatus says %s (%s), not %s\n", about, result.Status, result.Message, c.Kstatus)
		}
		verdict, message, err := health(object, string(script))
		if err != nil {
			fail(fmt.Errorf("%s: %w", about, err))
		}
		if verdict != c.Argo {
			wrong++
			fmt.Printf("%s: Argo CD says %s (%s), not %s\n", about, verdict, message, c.Argo)
		}
		if message == "" {
			wrong++
			fmt.Printf("%s: Argo CD shows no message\n", about)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
	if total == 0 {
		fail(fmt.Errorf("no cases on stdin"))
	}
	fmt.Printf("%d objects judged, %d wrong verdicts\n", total, wrong)
	if wrong > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gitops:", err)
	os.Exit(1)
}

// health is the verdict of Argo CD with our script in its configuration, for all kinds of the group.
func health(object *unstructured.Unstructured, script string) (string, string, error) {
	overrides := lua.ResourceHealthOverrides{"bessemer.dev/*": argo.ResourceOverride{HealthLua: script}}
	verdict, err := engine.GetResourceHealth(object, overrides)
	if err != nil {
		return "", "", err
	}
	if verdict == nil {
		return "", "", fmt.Errorf("Argo CD found no health check")
	}
	return string(verdict.Status), verdict.Message, nil
}
