// schemas writes the JSON schemas that kubeconform reads, without the internet, and turns YAML into JSON.
//
//	schemas write OUT swagger.json CRD.yaml...   strict schemas, one per kind: OUT/<kind>-<group>-<version>.json
//	schemas json < many.yaml                     one JSON document per line
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

type object = map[string]any

func main() {
	var err error
	switch {
	case len(os.Args) > 3 && os.Args[1] == "write":
		err = write(os.Args[2], os.Args[3], os.Args[4:])
	case len(os.Args) == 2 && os.Args[1] == "json":
		err = convert()
	default:
		err = fmt.Errorf("usage: schemas write OUT swagger.json CRD.yaml... | schemas json")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func documents(text []byte) ([]object, error) {
	var all []object
	for _, part := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		var one object
		if err := yaml.UnmarshalStrict(part, &one); err != nil {
			return nil, err
		}
		if len(one) > 0 {
			all = append(all, one)
		}
	}
	return all, nil
}

func convert() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	all, err := documents(text)
	for _, one := range all {
		line, err := json.Marshal(one)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return err
}

func write(out, swagger string, definitions []string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var spec struct{ Definitions object }
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	for name, definition := range spec.Definitions {
		schema := definition.(object)
		// A quantity, a time and a number-or-word are strings or numbers; their swagger says string only.
		switch {
		case strings.HasSuffix(name, ".resource.Quantity"), strings.HasSuffix(name, ".util.intstr.IntOrString"):
			spec.Definitions[name] = object{"oneOf": []any{object{"type": "string"}, object{"type": "number"}}}
		default:
			close(schema)
		}
	}
	if err := save(out, "_definitions.json", object{"definitions": spec.Definitions}); err != nil {
		return err
	}
	for name, definition := range spec.Definitions {
		kinds, _ := definition.(object)["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			k := kind.(object)
			schema := object{"$ref": "_definitions.json#/definitions/" + name}
			if err := save(out, file(k["kind"], k["group"], k["version"]), schema); err != nil {
				return err
			}
		}
	}
	for _, path := range definitions {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all, err := documents(text)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, definition := range all {
			s := definition["spec"].(object)
			for _, version := range s["versions"].([]any) {
				v := version.(object)
				schema := v["schema"].(object)["openAPIV3Schema"].(object)
				properties := schema["properties"].(object)
				properties["apiVersion"] = object{"const": s["group"].(string) + "/" + v["name"].(string)}
				properties["kind"] = object{"const": s["names"].(object)["kind"]}
				properties["metadata"] = object{"$ref": "_definitions.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
				close(schema)
				if err := save(out, file(s["names"].(object)["kind"], s["group"], v["name"]), schema); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// close makes a schema refuse unknown fields, and lets numbers stand where a number or a word may.
func close(node any) {
	switch n := node.(type) {
	case []any:
		for _, one := range n {
			close(one)
		}
	case object:
		_, hasProperties := n["properties"].(object)
		_, open := n["additionalProperties"]
		if hasProperties && !open && n["x-kubernetes-preserve-unknown-fields"] != true {
			n["additionalProperties"] = false
		}
		if n["x-kubernetes-int-or-string"] == true {
			delete(n, "type")
		}
		if n["nullable"] == true {
			if word, ok := n["type"].(string); ok {
				n["type"] = []any{word, "null"}
			}
		}
		for _, one := range n {
			close(one)
		}
	}
}

// file is the name by kubeconform's template {{.ResourceKind}}{{.KindSuffix}}.json.
func file(kind, group, version any) string {
	parts := []string{strings.ToLower(kind.(string))}
	if word, _ := group.(string); word != "" {
		parts = append(parts, strings.Split(word, ".")[0])
	}
	return strings.Join(append(parts, version.(string)), "-") + ".json"
}

func save(out, name string, content object) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, name), text, 0o644)
}
