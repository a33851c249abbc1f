-- Health of every kind of bessemer.dev for Argo CD; charts/gitops/README.md says where it goes.
-- Uses no library: Argo CD opens neither string nor math unless told to.
local status = obj.status or {}

local function condition(name)
  for _, one in ipairs(status.conditions or {}) do
    if one.type == name then
      return one
    end
  end
end

local function verdict(word, about)
  return { status = word, message = about.reason .. ": " .. about.message }
end

-- Before the operator has seen this generation its status speaks of another one.
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this generation yet" }
end

local ready = condition("Ready")
if ready == nil then
  return { status = "Progressing", message = "the operator has not judged this object yet" }
end
for _, name in ipairs({ "Failed", "Stalled" }) do
  local one = condition(name)
  if one ~= nil and one.status == "True" then
    return verdict("Degraded", one)
  end
end
local suspended = condition("Suspended")
if suspended ~= nil and suspended.status == "True" then
  return verdict("Suspended", suspended)
end
local reconciling = condition("Reconciling")
if reconciling ~= nil and reconciling.status == "True" then
  return verdict("Progressing", reconciling)
end
if ready.status == "True" then
  return verdict("Healthy", ready)
end
return verdict("Progressing", ready)
