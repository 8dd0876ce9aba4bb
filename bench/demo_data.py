"""Support conversations of an online shop, for the demo's adapters: made up by a seeded script.

    python3 bench/demo_data.py > bench/demo_heldout.json        the held-out set, as committed

The task is triage: given the conversation so far, name the team that should take it over. Held-out conversations
share no sentence of a customer, no product and no name with the training ones.
"""
import json
import random
import sys

SYSTEM = ("You are the support assistant of Northwind, an online shop for the home. Be friendly and brief, "
          "ask for what is missing, and never promise what only a colleague can decide.")
INVOCATION = "<|im_start|>team\n"

# team -> (sentences for training, sentences held out)
COMPLAINTS = {
    "billing": (
        ["I was charged twice for the {product} and only one of the payments shows up in my order list.",
         "My credit card statement shows {amount} euros but the {product} was advertised for less.",
         "I need an invoice with my company's tax number for the {product}.",
         "The discount code was accepted, yet the full price was taken from my bank account.",
         "Why is there a fee of {amount} euros on my bill that I have never agreed to?",
         "I paid by bank transfer a week ago and you still send me payment reminders.",
         "My last payment was declined although there is enough money on the card.",
         "Please send me the receipt for the {product} again, I have to hand it in at work.",
         "You debited {amount} euros for a subscription that I ended in spring.",
         "The VAT on the bill for the {product} is wrong.",
         "Why did you take {amount} euros from my account when the price was lower?",
         "The bill that I got has the wrong address of my firm on it.",
         "I still have not received a credit note.",
         "Two payments were booked for one and the same order.",
         "The price at the checkout was lower than what I was charged.",
         "My gift card was not deducted from the total.",
         "I would like to pay the {product} in instalments, is my card accepted for that?",
         "You have sent me a dunning letter over {amount} euros that I paid long ago.",
         "There is a charge from your shop that I cannot explain.",
         "The invoice lists the {product} three times, I bought one.",
         "Your bill says {amount} euros, the order confirmation says less.",
         "I was promised ten percent off but paid everything."],
        ["There are two identical debits for the {product} on my card.",
         "The amount on the invoice does not match what I agreed to pay for the {product}.",
         "I have been billed {amount} euros too much.",
         "My voucher was not taken off the price when I paid."]),
    "delivery": (
        ["The {product} was supposed to arrive on Monday and it is still not here.",
         "The tracking page has said 'in transit' for six days now.",
         "The courier left the parcel with the {product} with a neighbour I do not know.",
         "Can you send the {product} to my office instead, before the van leaves?",
         "Your driver rang once and drove away with my {product}.",
         "The parcel is marked as delivered but nothing is at my door.",
         "When will the {product} be shipped?",
         "I gave the wrong street number and the {product} is already on its way.",
         "Only one of the two boxes of the {product} has reached me.",
         "The shipment has been stuck at the depot since last week.",
         "The {product} has not come yet and I have waited for nine days.",
         "Where is my parcel right now?",
         "The van was here while I was out, when will they try again?",
         "The delivery date has been moved for the third time.",
         "I was at home all day but nobody brought the {product}.",
         "According to the carrier the package is lost.",
         "Could the parcel be dropped at a pick-up point near me?",
         "How many days does it take until the {product} gets here?",
         "The tracking number that you sent does not work.",
         "They tried to hand over the {product} at an old address of mine.",
         "My order was sent on Friday and there is no trace of it.",
         "The postman claims that there is no such house number."],
        ["My {product} has been on the road for more than a week.",
         "The driver says that he handed over the package, but I never got it.",
         "Is there any news about when the {product} will get to my house?",
         "The parcel service cannot find my address."]),
    "returns": (
        ["The {product} arrived with a crack and I would like to send it back.",
         "I do not like the colour of the {product}, how can I give it back?",
         "How long do I have to return the {product} if I have opened the box?",
         "Please send me a return label for the {product}.",
         "I got the {product} in the wrong size and want to exchange it for a larger one.",
         "I sent the {product} back two weeks ago and have not got my money back.",
         "The {product} is not what the pictures showed, I want a refund.",
         "You sent me the wrong {product}, I ordered another one and want to swap it.",
         "May I bring the {product} back to a shop instead of mailing it?",
         "The {product} came scratched, please replace it.",
         "I would like a refund for the {product}, it is too big.",
         "The {product} was damaged in the box, I want a new one.",
         "Is it possible to exchange the {product} for a different version?",
         "I changed my mind and do not want to keep the {product}.",
         "How do I mail the {product} back to you?",
         "The lid of the {product} was broken on arrival, can I get a substitute?",
         "I no longer need the {product}, it is unopened, will you take it back?",
         "I want to cancel the purchase and give back the {product}.",
         "The form for sending things back asks for a code that I do not have.",
         "When will I be refunded for the {product} that I gave back?",
         "The {product} has a dent, I would like to trade it for an intact one.",
         "My husband already has the {product}, so I want to hand mine back."],
        ["I have changed my mind about the {product} and want to give it back for a refund.",
         "Where do I get the label to send the {product} back?",
         "The {product} was broken when I unpacked it, I would like a replacement.",
         "Can I swap the {product} for another model?"]),
    "account": (
        ["I cannot log in, the page says that my password is wrong.",
         "I never get the e-mail to reset my password.",
         "Please change the e-mail address of my account, I have lost the old one.",
         "Someone else has ordered with my account, please lock it.",
         "I want you to delete my profile and all my data.",
         "The code for signing in never reaches my phone.",
         "I have two profiles by mistake, can you merge them?",
         "My account has been blocked since I mistyped the password.",
         "How do I change the name that is shown in my profile?",
         "I can no longer sign in since I have a new phone number.",
         "My user name is not recognised when I try to enter the site.",
         "The link for a new password does not do anything.",
         "I want to close my account.",
         "How can I get into my account again after too many attempts?",
         "Please remove my personal data and my login.",
         "I would like to use another e-mail address to log in.",
         "The website signs me out again and again.",
         "I have forgotten my password and the answer to the security question.",
         "Somebody has changed the password of my account.",
         "How do I turn on two-step login in my profile?",
         "My login was locked this morning for no reason.",
         "I registered with a typing error in my user name, can you correct it?"],
        ["The site does not accept my user name and password any more.",
         "I would like to close my user account for good.",
         "I am locked out of my profile.",
         "How can I set a new password, the link in your mail has expired?"]),
    "technical": (
        ["The {product} does not switch on, I have tried two sockets.",
         "The {product} loses the Wi-Fi connection every few minutes.",
         "How do I update the software of the {product}?",
         "The display of the {product} shows error E{code}, what does it mean?",
         "The app cannot find the {product} although Bluetooth is on.",
         "The {product} makes a loud grinding noise when it runs.",
         "The {product} restarts by itself in the middle of a program.",
         "What are the steps to reset the {product} to its factory settings?",
         "The battery of the {product} is empty after ten minutes.",
         "I cannot pair the {product} with the remote control.",
         "The {product} stops after a few seconds and a red light flashes.",
         "The {product} freezes whenever I press start.",
         "Since the update the {product} does not react any more.",
         "The {product} will not connect to the network at home.",
         "How can I clean the filter of the {product}, the manual does not say it?",
         "The {product} beeps three times and turns itself off.",
         "The {product} gets very hot and smells burnt.",
         "My phone does not see the {product} in the app.",
         "The {product} shows code E{code} and does nothing.",
         "The buttons of the {product} do not respond.",
         "The timer of the {product} is always ten minutes late, how do I set it?",
         "The {product} worked for a month and is dead since yesterday."],
        ["My {product} stops working after a minute and blinks red.",
         "The {product} will not connect to my phone.",
         "Error E{code} comes up whenever I start the {product}.",
         "After the latest firmware the {product} freezes."]),
    "sales": (
        ["Which {product} would you recommend for a family of five?",
         "Is the {product} going to be on offer next month?",
         "I would like to order forty pieces of the {product} for our hotel, is there a better price?",
         "Do you have the {product} in green as well?",
         "What is the difference between the two models of the {product}?",
         "When is the {product} going to be in stock again? I want to buy one.",
         "Does the {product} come with a longer warranty if I buy it now?",
         "Can you put a {product} aside for me until I am paid?",
         "I am looking for a present for about {amount} euros, what do you suggest?",
         "Would the {product} fit into a small kitchen? I am thinking about buying it.",
         "Do you also sell the {product} in black?",
         "I am considering a {product}, is it a good one for a student?",
         "What would you charge for a dozen of the {product}?",
         "Could you give me a quote for several of the {product}?",
         "I am interested in the {product}, is the newer version worth the money?",
         "Which other colours do you have? I would like to get a {product}.",
         "Will there be a sale on the {product} before Christmas?",
         "Can you advise me which {product} to choose?",
         "Is the {product} still in your range? I would like to buy it.",
         "Before I order: how loud is the {product}?",
         "I need a {product} for an office with ten people, which model suits us?",
         "Are there bundles with the {product}? I might take one."],
        ["I am thinking about getting a {product}, which one is best for beginners?",
         "Could you make us an offer for twelve of the {product}?",
         "Is the {product} available in other colours? I may buy two.",
         "Do you still sell the older {product}?"]),
}
TEAMS = sorted(COMPLAINTS)
PRODUCTS = (["coffee machine", "floor lamp", "robot vacuum", "kettle", "bookshelf", "air purifier", "toaster",
             "desk chair", "sound bar", "heated blanket", "food processor", "smart thermostat", "sewing machine",
             "freezer", "camping stove", "garden hose", "alarm clock", "mattress", "paper shredder", "projector",
             "electric bike", "water filter", "pressure cooker", "night light"],
            ["dishwasher", "electric fireplace", "standing desk", "rice cooker", "baby monitor", "humidifier"])
NAMES = (["Anna", "Ben", "Clara", "David", "Emil", "Fatma", "Greta", "Hugo"], ["Ines", "Jakob", "Kira", "Levin"])
OPENINGS = (
    ["Hello, this is {name}.", "Good morning!", "Hi there, I need some help.",
     "Hello, I have been a customer for years.",
     "Hi, {name} here, I hope you are well.", "Good evening, I am not sure whether I am right here.",
     "Dear Northwind,", "Hello, I have got a question.", "Good afternoon, my name is {name}.", "Hey!"],
    ["Hello, my name is {name} and I have a question.", "Hi, I hope that somebody can help me.", "Dear team,"])
ASIDES = (
    ["I ordered it as a birthday present for my sister.", "The order number is {order}.", "I live on the third floor.",
     "I have already written to you twice.", "My neighbour bought the same thing and is happy with it.",
     "I am at work until five, so please answer in writing.", "By the way, your website looks much nicer now.",
     "It is the second thing that I have bought from you this year.", "I have a small dog, if that matters.",
     "We are away from Thursday on.", "My mother told me about your shop.", "I have kept all the papers.",
     "You were very helpful the last time.", "My customer number is {order}.", "I am writing for my parents.",
     "We renovated the house in May.", "I found you through a magazine."],
    ["My reference is {order}.", "We have just moved into a new flat.", "I usually buy everything from your shop.",
     "A friend told me to write to you.", "Your colleague on the phone was very kind."])
URGES = (["Can you help me?", "What can be done about it?", "Please get back to me soon.", "Thanks in advance!", "",
          "What do I have to do now?", "I look forward to your answer.", "Please let me know.", "Thank you!"],
         ["I would be glad to hear from you.", "What happens next?", "Many thanks!"])
GREETINGS = (
    ["Hello! How can I help you today?", "Welcome to Northwind! What can I do for you?",
     "Hi! Thank you for getting in touch. What is it about?", "Good to hear from you. Please tell me what happened."],
    ["Welcome! Tell me what I can do for you.", "Hello and thank you for writing. How may I help?"])
REPLIES = (
    ["Thank you for telling me. Could you give me your order number, please?",
     "I am sorry to hear that. I will look into it for you. May I ask for a few more details?",
     "I understand. Let me check what we can do. Is there anything else that I should know?",
     "Thanks for the details, I have noted them. A colleague will take a look.",
     "I see. To help you as quickly as possible, please tell me the e-mail address that you ordered with.",
     "I'm happy to help! Please give me a moment while I look this up.",
     "I apologize for the inconvenience. I will make sure that the right person sees this.",
     "That is a good question. Let me see what I can find out for you."],
    ["I am sorry about that. I will pass it on to a colleague who knows more about it.",
     "Thank you. I have what I need and will have somebody look at it.",
     "Of course. Could you tell me your customer number, so that we can find your order?"])


def conversation(rng, team, held_out):
    """-> messages that end with the customer's turn."""
    side = 1 if held_out else 0

    def pick(pool):
        fill = {"product": product, "name": name, "order": rng.randrange(10000, 99999),
                "amount": rng.randrange(12, 480), "code": rng.randrange(2, 60)}
        return rng.choice(pool[side]).format(**fill)

    product, name = rng.choice(PRODUCTS[side]), rng.choice(NAMES[side])
    messages = [{"role": "system", "content": SYSTEM}]

    def say(role, *parts):
        messages.append({"role": role, "content": " ".join(p for p in parts if p)})

    if rng.random() < 0.5:
        say("user", pick(OPENINGS))
        say("assistant", pick(GREETINGS))
        say("user", pick(COMPLAINTS[team]), pick(ASIDES) if rng.random() < 0.5 else "")
    else:
        say("user", pick(OPENINGS), pick(ASIDES) if rng.random() < 0.4 else "", pick(COMPLAINTS[team]), pick(URGES))
    for _ in range(rng.choice((0, 1, 1, 2))):
        say("assistant", pick(REPLIES))
        say("user", pick(ASIDES), pick(URGES))
    return messages


def render(messages, header="assistant"):
    """SmolLM2's chat format, up to and with the header of the next turn."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + f"<|im_start|>{header}\n"


def examples(seed, count, held_out):
    """-> [{"messages", "reply", "team"}]: reply is an answer of the assistant to the last turn."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        team = TEAMS[i % len(TEAMS)]
        messages = conversation(rng, team, held_out)
        out.append({"messages": messages, "reply": rng.choice(REPLIES[1 if held_out else 0]), "team": team})
    rng.shuffle(out)
    return out


def main():
    # The system prompt is the same everywhere and is added by whoever reads the file.
    data = examples("held out", 48, held_out=True)
    for example in data:
        example["messages"] = example["messages"][1:]
    json.dump({"system": SYSTEM, "teams": TEAMS, "examples": data}, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
